"""oce edits the concept in templates, as all published scripts do, and a composition of two rotations is reported."""

from typing import Any

import pytest
import torch

import efface
from efface import Eraser, Model, WeightEdit


def oce(model: Model, concepts: list[str], **options: Any) -> Eraser:
    return efface.erase(model, concepts, ["house"] * len(concepts), method="oce", **options)


def asymmetry(model: Model, eraser: Eraser) -> float:
    """The largest relative change of W^T W, which a rotation of W leaves as it is."""
    weights, errors = dict(model.text_weights()), list[float]()
    for edit in eraser.edits:
        assert isinstance(edit, WeightEdit)
        before = weights[edit.parameter.removeprefix("denoiser.")].double()
        after = edit.on(before)
        errors.append(float((after.T @ after - before.T @ before).norm() / (before.T @ before).norm()))
    return max(errors)


@pytest.mark.parametrize("kind", ["object", "style", "unsafe", "memorised"])
def test_the_default_expands_prompts_as_the_published_scripts_do(tiny_model: Model, kind: str) -> None:
    default = oce(tiny_model, ["cat"], kind=kind)
    assert default.provenance["settings"]["expand_prompts"] is True
    assert default.hash == oce(tiny_model, ["cat"], kind=kind, expand_prompts=True).hash
    assert default.hash != oce(tiny_model, ["cat"], kind=kind, expand_prompts=False).hash


def test_a_composition_that_is_no_rotation_is_reported(tiny_model: Model) -> None:
    one, other, third = (oce(tiny_model, [name]) for name in ("cat", "golf ball", "boat"))
    together = oce(tiny_model, ["cat", "golf ball"])
    assert max(asymmetry(tiny_model, eraser) for eraser in (one, other, together)) < 1e-5
    for erasers in ([one, other], [other, third, one]):
        with pytest.warns(UserWarning, match="two rotations is no rotation.*in one request.*summed from the"):
            composed = efface.compose(*erasers)
        by_name: dict[str, torch.Tensor] = {}
        for edit in composed.edits:
            assert isinstance(edit, WeightEdit)
            assert edit.delta is not None
            by_name[edit.parameter] = by_name.get(edit.parameter, torch.zeros(())) + edit.delta
        assert len(by_name) == len(one.edits)
