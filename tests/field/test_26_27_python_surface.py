"""`compose` takes lists of erasers, an eraser prints one line, and `inspect` one screen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import efface
from efface import BadInput, Eraser, Model, WeightEdit


def test_compose_takes_a_list_of_erasers(tiny_model: Model, tmp_path: Path) -> None:
    one, other = (efface.erase(tiny_model, name, "dog") for name in ("cat", "horse"))
    one.save(tmp_path / "one.safetensors")
    single: Any = efface.compose([one])
    assert single is one
    lists: tuple[Any, ...] = ([one, other], (str(tmp_path / "one.safetensors"), other))
    for both in lists:
        assert efface.compose(both).hash == efface.compose(one, other).hash
    assert efface.compose([one, other], without="cat").concepts == ("horse",)
    mistakes: tuple[Any, ...] = ([[one]], 3, {"cat": one}, None)
    for wrong in mistakes:
        with pytest.raises(BadInput, match="An eraser or its file is expected"):
            efface.compose(wrong)
    with pytest.raises(BadInput, match="Nothing to compose"):
        efface.compose([])


@pytest.mark.parametrize("method", ["uce", "cure", "oce", "certified"])
def test_an_eraser_prints_one_line(tiny_model: Model, method: str) -> None:
    names = ["cat", "horse", "car", "boat", "bird", "golf ball", "house"]
    for concepts, shown in ((names[:1], "cat: "), (names, "cat, horse, car, boat, bird and 2 more: ")):
        text = repr(efface.erase(tiny_model, concepts, method=method))
        assert shown + method in text
        assert len(text) < 200
        assert "\n" not in text


def trained(model: Model, count: int) -> Eraser:
    """An eraser that changes many parameters, as a trained one does."""
    weights = [(name, weight) for name, weight in model.denoiser.named_parameters() if weight.ndim == 2][:count]
    edits = tuple(WeightEdit(f"denoiser.{name}", delta=torch.zeros_like(weight)) for name, weight in weights)
    digests = {edit.parameter: {"float16": "0" * 64, "bfloat16": "1" * 64} for edit in edits}
    eraser = efface.erase(model, "cat", "dog")
    return replace(eraser, edits=edits, base=replace(eraser.base, parameters=digests))


@pytest.mark.parametrize("count", [15, 40])
def test_inspect_prints_one_screen(efface: Any, tiny_model: Model, count: int) -> None:
    trained(tiny_model, count).save("trained.safetensors")
    short, full = (efface("inspect", "trained.safetensors", *more) for more in ((), ("--details",)))
    lines = [len((ended.out + ended.err).splitlines()) for ended in (short, full)]
    assert lines[0] <= 60 < lines[1] or count == 15
    assert lines[0] < lines[1]
    assert len(efface("inspect", "trained.safetensors", "--json").json()["base"]["parameters"]) == count
