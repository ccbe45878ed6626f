"""The contract of guards, the edits that act while a model runs: these tests run for each registered one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Model
from efface.apply.guard import GUARDS, Guard
from efface.methods import METHODS
from support import parameters, same

#: The method that makes each guard, with settings under which it acts from the first step.
MADE_BY: dict[str, tuple[str, dict[str, Any]]] = {
    "adavd": ("adavd", {}),
    "negative": ("negative", {}),
    "sld": ("sld", {"preset": "max"}),
}
STEPS = (900.0, 500.0, 100.0)

pytestmark = pytest.mark.parametrize("name", GUARDS.names())


@pytest.fixture
def part(name: str, tiny_model: Model) -> Any:
    """The guard's tensors and settings, as an eraser stores them."""
    method, options = MADE_BY[name]
    (part,) = efface.erase(tiny_model, ("cat", "golf ball"), method=method, **options).edits
    return part


@pytest.fixture
def predict(guided: Callable[..., Tensor], tiny_model: Model) -> Callable[[], list[Tensor]]:
    """The predictions of one image's steps, in their order."""
    return lambda: [guided(tiny_model, ["a cat", "a house"], step=step) for step in STEPS]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def test_it_is_a_guard_that_a_method_makes(name: str, part: Any) -> None:
    guard = GUARDS.get(name)
    assert issubclass(guard, Guard)
    assert isinstance(guard.remembers, bool)
    assert part.guard == name
    assert METHODS.get(MADE_BY[name][0]).edit == "guard"


def test_it_acts_by_its_strength_and_not_before_it_is_set(
    name: str, part: Any, tiny_model: Model, predict: Callable[[], list[Tensor]]
) -> None:
    plain = predict()
    guard = GUARDS.get(name)(part, tiny_model.denoiser)
    assert equal(predict(), plain)
    guard.set(1.0)
    whole = predict()
    assert all(bool(step.isfinite().all()) for step in whole)
    assert not equal(whole, plain)
    guard.set(0.5)
    half = predict()
    assert not equal(half, whole)
    assert not equal(half, plain)
    guard.set(0.0)
    assert equal(predict(), plain)
    guard.detach()


def test_each_image_is_as_the_first(
    name: str, part: Any, tiny_model: Model, predict: Callable[[], list[Tensor]]
) -> None:
    """What a guard remembers of an image's steps ends with the image."""
    guard = GUARDS.get(name)(part, tiny_model.denoiser)
    guard.set(1.0)
    first = predict()
    assert equal(predict(), first)
    guard.detach()


def test_only_a_guard_that_remembers_depends_on_earlier_steps(
    name: str, part: Any, tiny_model: Model, predict: Callable[[], list[Tensor]], guided: Callable[..., Tensor]
) -> None:
    guard = GUARDS.get(name)(part, tiny_model.denoiser)
    guard.set(1.0)
    after = predict()[-1]
    guard.detach()
    fresh = GUARDS.get(name)(part, tiny_model.denoiser)
    fresh.set(1.0)
    alone = guided(tiny_model, ["a cat", "a house"], step=STEPS[-1])
    fresh.detach()
    assert torch.equal(after, alone) is not GUARDS.get(name).remembers


def test_detaching_leaves_nothing_behind(
    name: str, part: Any, tiny_model: Model, predict: Callable[[], list[Tensor]]
) -> None:
    plain, weights = predict(), parameters(tiny_model.denoiser)
    guard = GUARDS.get(name)(part, tiny_model.denoiser)
    guard.set(1.0)
    predict()
    guard.detach()
    guard.detach()
    assert equal(predict(), plain)
    assert same(parameters(tiny_model.denoiser), weights)
    for module in tiny_model.denoiser.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)


def test_two_detach_in_any_order(name: str, part: Any, tiny_model: Model, predict: Callable[[], list[Tensor]]) -> None:
    plain = predict()
    first, second = (GUARDS.get(name)(part, tiny_model.denoiser) for _ in range(2))
    first.detach()
    second.set(0.0)
    assert equal(predict(), plain)
    second.detach()
    assert equal(predict(), plain)
