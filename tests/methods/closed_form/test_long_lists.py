"""A long list of prompts to preserve: no method ever holds all of its embeddings, and none depends on the batches."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import efface
from efface import Eraser, Model, TextEdit, WeightEdit
from efface.methods import METHODS
from efface.methods.closed_form import certified, cure, oce, rece, speed_tokens, tokens, uce
from efface.methods.closed_form.robust import method as robust
from efface.methods.closed_form.robust import search as robust_rounds
from efface.methods.trained import sepce_basis

WORDS = "a an of in the dog horse house car boat bird parrot apple star blue red".split()  # noqa: SIM905
#: 4096 prompts of three words; the tiny model's text is 32 wide and 12 tokens long.
PROMPTS = tuple(" ".join(words) for words in product(WORDS, WORDS, WORDS))
BATCH = 64


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation made, in numbers."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self.size = max(self.size, tensor.numel())
        return made


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (certified, cure, oce, rece, robust, robust_rounds, sepce_basis, speed_tokens, tokens, uce):
        monkeypatch.setattr(module, "BATCH", BATCH, raising=False)
    monkeypatch.setattr(speed_tokens, "_IN_MEMORY", 1 << 12)


def matrices(eraser: Eraser) -> Iterator[Tensor]:
    for edit in sorted(eraser.edits, key=lambda edit: getattr(edit, "parameter", "")):
        if isinstance(edit, TextEdit):
            yield edit.matrix
        elif isinstance(edit, WeightEdit):
            yield edit.value(
                (edit.tensors()["up"].shape[0], -1) if edit.up is not None else edit.tensors()["delta"].shape
            )


QUICK: dict[str, dict[str, Any]] = {
    "nullspace": {"layers": "0,1", "epochs": 1, "adam_steps": 2, "batch_size": 2, "sampling_steps": 2},
    # No change spares thousands of prompts in full.
    "sepce": {"iter_break": 2, "images": 2, "sampling_steps": 2, "tolerance": 0.5},
}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    (name, QUICK.get(name, {})) for name in METHODS.names() if METHODS.get(name).uses_preserve
]
OPTIONS += [
    ("uce", {"variant": "window"}),
    ("speed", {"params": "KV", "aug_num": 0}),
    ("speed", {"disable_filter": True}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.usefixtures("small_batches")
def test_memory_does_not_grow_with_the_list(name: str, options: dict[str, Any], tiny_model: Model) -> None:
    _ = tiny_model.text_encoder, list(tiny_model.text_weights())
    sizes: list[int] = []
    for prompts in (PROMPTS[:512], PROMPTS):
        with Largest() as largest:
            eraser = efface.erase(tiny_model, "cat", "cake", preserve=prompts, method=name, **options)
        assert eraser.request.preserve == prompts
        sizes.append(largest.size)
    # Of a single prompt SPEED keeps a number for each of ten copies; the text is 32 wide.
    assert sizes[1] <= max(sizes[0], 10 * len(PROMPTS))


@pytest.mark.parametrize(
    "options",
    [{}, {"aug_num": 0}, {"disable_filter": True}, {"params": "KV", "aug_num": 0}, {"aug_num": 3, "params": "K"}],
)
def test_speed_does_not_depend_on_its_batches(
    options: dict[str, Any], tiny_model: Model, request: pytest.FixtureRequest
) -> None:
    """In one batch it is the published script (see test_speed)."""

    def made() -> list[Tensor]:
        chosen = PROMPTS[:: len(PROMPTS) // 200][:200]
        return list(matrices(efface.erase(tiny_model, "cat", "cake", preserve=chosen, method="speed", **options)))

    whole = made()
    tokens_in_order = tiny_model.embed(PROMPTS[:5]).last_tokens
    rows = speed_tokens.Rows(tiny_model.width)
    request.getfixturevalue("small_batches")
    for first in range(0, 5, 2):
        rows.add(tokens_in_order[first : first + 2])
    assert torch.equal(torch.cat(list(rows)), tokens_in_order.double())
    for one, other in zip(whole, made(), strict=True):
        assert float((one - other).norm() / one.norm()) < 1e-4
