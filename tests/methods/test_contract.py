"""What every method promises, whatever it does: runs for each registered one."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadInput, BadRequest, Eraser, Model, TextEdit, open_model
from efface.edits.kinds import describe
from efface.methods import METHODS
from support import parameters, same

#: Settings with which a trained method takes a moment, and a guard acts from the first step; the others as published.
QUICK: dict[str, dict[str, Any]] = {
    "cie": {"iter_break": 3, "images": 2, "sampling_steps": 2, "lr": 1e-3},
    "ablate": {"train_max_steps": 3, "train_size": 6, "batch_size": 2, "sampling_steps": 2, "base_lr": 1e-3},
    "esd": {"iterations": 3, "ddim_steps": 4, "reuse": 3, "lr": 1e-3, "train_method": "esd-x"},
    "lora": {"iterations": 3, "max_denoising_steps": 4, "reuse": 3, "lr": 1e-2, "rank": 2},
    "nullspace": {"layers": "0,1", "epochs": 1, "adam_steps": 2, "batch_size": 2, "sampling_steps": 2},
    "robust": {"rounds": 2},
    "sepce": {"iter_break": 3, "images": 2, "sampling_steps": 2, "scale_factor": 1e-2, "tolerance": 0.1},
    "sld": {"preset": "max"},
}
OWN = {"certified", "robust"}  # efface's own, without a paper
Predict = Callable[[Model], Tensor]
CONCEPTS, PRESERVE = ("cat", "golf ball"), ("a horse", "blue bird")

pytestmark = [
    pytest.mark.parametrize("name", METHODS.names()),
    pytest.mark.filterwarnings("ignore:.*has no (guides|preserve list)"),
]


@cache
def model_in(folder: Path) -> Model:
    return open_model(folder)


@cache
def erased(name: str, folder: Path) -> Eraser:
    return efface.erase(model_in(folder), CONCEPTS, "dog", preserve=PRESERVE, method=name, **QUICK.get(name, {}))


@pytest.fixture
def model(tiny_sd: Path) -> Model:
    return model_in(tiny_sd)


@pytest.fixture
def eraser(name: str, tiny_sd: Path) -> Eraser:
    return erased(name, tiny_sd)


@pytest.fixture
def predict(guided: Callable[..., Tensor]) -> Predict:
    return lambda model: guided(model, ("a cat", "a house", "golf ball"))


def test_it_says_what_it_is(name: str, eraser: Eraser) -> None:
    method = METHODS.get(name)
    assert method.name == name == eraser.method
    assert method.summary.endswith(".")
    assert len(method.summary) < 120
    if name not in OWN:
        assert method.paper.startswith("https://")
        assert method.repository.startswith("https://")
    assert eraser.kind_of_edit == method.edit
    assert eraser.concepts == CONCEPTS


def test_it_changes_what_is_drawn_and_leaves_the_model_as_it_was(
    name: str, eraser: Eraser, model: Model, predict: Predict
) -> None:
    weights, plain = parameters(model.denoiser), predict(model)
    with eraser.attach(model):
        edited = predict(model)
    assert bool(edited.isfinite().all())
    assert not torch.equal(edited, plain)
    assert torch.equal(predict(model), plain)
    assert same(parameters(model.denoiser), weights)
    assert not model.denoiser._forward_pre_hooks
    assert not any(module._forward_hooks for module in model.denoiser.modules())


def test_it_erases_after_other_erasers_or_says_that_it_cannot(
    name: str, tiny_sd: Path, tmp_path: Path, other_eraser: Eraser
) -> None:
    """As if the earlier eraser were baked and the new concept erased on that model, on whatever it edits."""
    method, model = METHODS.get(name), open_model(tiny_sd)
    quick: dict[str, Any] = {**QUICK.get(name, {}), "method": name}
    if method.after is None:
        with pytest.raises(BadRequest, match=f"{name} cannot erase after other erasers"):
            efface.erase(model, "golf ball", "dog", after=other_eraser, **quick)
        return
    before = parameters(model.denoiser)
    both = efface.erase(model, "golf ball", "dog", after=other_eraser, **quick)
    assert same(parameters(model.denoiser), before)
    assert set(both.concepts) == {"cat", "golf ball"}
    first = other_eraser.bake(model)
    preserve = ("cat",) if method.uses_preserve else ()
    second = efface.erase(model, "golf ball", "dog", preserve=preserve, **quick).bake(model)
    expected = parameters(model.denoiser) | parameters(model.text_encoder)
    second.undo()
    first.undo()
    assert same(parameters(model.denoiser), before)
    both.save(tmp_path / "both.safetensors")
    Eraser.load(tmp_path / "both.safetensors").bake(model)
    edited = parameters(model.denoiser) | parameters(model.text_encoder)
    for key, value in edited.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)


@pytest.fixture(params=["uce", "esd"])
def other_eraser(request: pytest.FixtureRequest, tiny_sd: Path) -> Eraser:
    """An eraser of one concept: a text edit, or changes of the denoiser."""
    return first_eraser(request.param, tiny_sd)


@cache
def first_eraser(name: str, folder: Path) -> Eraser:
    return efface.erase(model_in(folder), "cat", method=name, **QUICK.get(name, {}))


def test_strength_zero_is_identity_and_half_is_on_the_way(
    name: str, eraser: Eraser, model: Model, predict: Predict
) -> None:
    plain = predict(model)
    with eraser.attach(model, strength=0.0) as attachment:
        assert torch.equal(predict(model), plain)
        attachment.set(0.5)
        half = predict(model)
        attachment.set(0.0)
        assert torch.equal(predict(model), plain)
    assert not torch.equal(half, plain)


def test_its_file_is_the_eraser_bit_for_bit(
    name: str, eraser: Eraser, model: Model, tmp_path: Path, predict: Predict
) -> None:
    path = tmp_path / "eraser.safetensors"
    eraser.save(path)
    again = Eraser.load(path)
    assert (again.hash, again.request, again.rank, again.nbytes) == (
        eraser.hash, eraser.request, eraser.rank, eraser.nbytes,
    )  # fmt: skip
    assert [describe(edit) for edit in again.edits] == [describe(edit) for edit in eraser.edits]
    with eraser.attach(model):
        edited = predict(model)
    with again.attach(model):
        assert torch.equal(predict(model), edited)


def test_the_same_request_gives_the_same_eraser(name: str, eraser: Eraser, tiny_sd: Path) -> None:
    other = open_model(tiny_sd)
    for _ in range(2):
        again = efface.erase(other, CONCEPTS, "dog", preserve=PRESERVE, method=name, **QUICK.get(name, {}))
        assert again.hash == eraser.hash
        _ = other.denoiser  # its weights come in another order once it is loaded


def test_numbers_are_finite_and_ranks_bounded(name: str, eraser: Eraser, model: Model) -> None:
    for edit in eraser.edits:
        assert all(bool(tensor.isfinite().all()) for tensor in edit.tensors().values())
        if isinstance(edit, TextEdit):
            assert edit.dim == model.width
            solves = 1 + eraser.provenance["settings"].get("epochs", 0)  # rece edits what it derives, too
            assert edit.rank <= min(model.width, solves * len(CONCEPTS) * model.max_tokens)
            assert torch.linalg.matrix_rank(edit.matrix) <= edit.rank


def test_baking_is_attaching_or_is_refused(name: str, eraser: Eraser, model: Model, predict: Predict) -> None:
    plain = predict(model)
    if eraser.kind_of_edit == "guard":
        with pytest.raises(BadInput, match="attach"):
            eraser.bake(model)
        return
    with eraser.attach(model):
        attached = predict(model)
    baked = eraser.bake(model)
    try:
        torch.testing.assert_close(predict(model), attached, rtol=1e-3, atol=1e-4)
    finally:
        baked.undo()
    assert torch.equal(predict(model), plain)


def test_a_concept_is_restored_or_the_refusal_says_why(name: str, eraser: Eraser) -> None:
    refusal, rest = "", eraser
    try:
        rest = eraser.without("cat")
    except BadRequest as error:
        refusal = str(error)
    if refusal:
        assert "split" in refusal
        assert "\n" not in refusal
        return
    assert rest.concepts == ("golf ball",)
    assert rest.method == name
    assert rest.hash != eraser.hash
    assert eraser.only(*CONCEPTS).hash == eraser.hash


def test_another_base_is_refused(name: str, eraser: Eraser, other_sd: Path) -> None:
    with pytest.raises(efface.WrongBase, match="--force"):
        eraser.attach(model_in(other_sd))


def test_bad_settings_are_refused_in_one_line(name: str, model: Model) -> None:
    wrong: list[dict[str, Any]] = [{"no_such_setting": 1}]
    fields = METHODS.get(name).config.model_fields
    wrong += [{field: float("nan")} for field in fields]
    for options in wrong:
        with pytest.raises(BadInput) as caught:
            efface.erase(model, "cat", method=name, **options)
        assert "\n" not in str(caught.value)
        assert next(iter(options)) in str(caught.value)


def erased_or_refused(model: Model, **options: Any) -> tuple[Eraser | None, str]:
    """An eraser, or the one line that says why there is none."""
    try:
        return efface.erase(model, CONCEPTS, "dog", **options), ""
    except BadInput as error:
        return None, str(error)


def is_finite(eraser: Eraser) -> bool:
    tensors = [*eraser.inputs.values(), eraser.base.embeddings]
    tensors += [tensor for edit in eraser.edits for tensor in edit.tensors().values()]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def zeros_of(name: str) -> list[dict[str, Any]]:
    """Every setting that may be zero and is not, one by one and all together: no regulariser, scale or threshold."""
    config = METHODS.get(name).config
    fields = [*config.model_fields, *(["uce.lamb", "uce.preserve_scale"] if name == "rece" else [])]
    each: list[dict[str, Any]] = []
    for field in fields:
        default = config.model_fields[field].default if field in config.model_fields else None
        if isinstance(default, bool) or default == 0:
            continue
        try:
            config.model_validate({field: 0})
        except BadInput:
            continue
        each.append({field: 0})
    return [*each, {field: 0 for one in each for field in one}] if each else []


def test_zero_regularisers_and_singular_gram_matrices_give_numbers_or_a_refusal(
    name: str, model: Model, predict: Predict
) -> None:
    """What is preserved repeats itself, and names what the concepts become: none of it is independent."""
    preserve = ["a horse", "a horse", "a  horse", "dog", "blue bird", ""]
    quick = QUICK.get(name, {}) if METHODS.get(name).trained or name == "nullspace" else {}
    for options in ({}, *zeros_of(name)):
        made, refusal = erased_or_refused(model, preserve=preserve, method=name, **{**quick, **options})
        if made is None:
            assert "\n" not in refusal
            continue
        assert is_finite(made), options
        with made.attach(model):
            assert bool(predict(model).isfinite().all()), options


@pytest.mark.parametrize("part", ["text_encoder", "denoiser"])
def test_a_damaged_model_gives_no_eraser_of_nan(name: str, tiny_sd: Path, part: str) -> None:
    damaged = open_model(tiny_sd)
    module: Any = getattr(damaged, part)
    weight = "final_layer_norm.weight" if part == "text_encoder" else damaged.text_parameters()[-1]
    module.get_parameter(weight).data[0] = torch.nan
    made, refusal = erased_or_refused(damaged, preserve=PRESERVE, method=name, **QUICK.get(name, {}))
    if made is None:
        assert "finite" in refusal
        assert "\n" not in refusal
    else:
        assert part == "denoiser", "made of embeddings that are not finite"
        assert is_finite(made)


def test_what_is_asked_for_twice_or_both_ways_is_refused(name: str, model: Model) -> None:
    with pytest.raises(BadRequest, match="twice"):
        efface.erase(model, ["golf ball", "Golf  ball"], "dog", method=name)
    with pytest.raises(BadRequest, match="both erased and preserved"):
        efface.erase(model, "golf ball", "dog", preserve=["a horse", " golf  Ball "], method=name)


def test_a_concept_that_is_too_long_is_refused(name: str, model: Model) -> None:
    with pytest.raises(BadRequest, match="at most 12"):
        efface.erase(model, "cat " * 40, method=name)
