"""The change of weights is that of the baked model."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import efface
from efface.apply.weight_change import weight_change
from efface.edits.kinds import TextEdit, WeightEdit
from efface.models import Model


def literal(eraser: efface.Eraser, model: Model) -> float:
    """|theta' - theta| / #theta, by baking and subtracting."""
    parts = (model.denoiser, model.text_encoder)
    before = [weight.detach().clone() for part in parts for weight in part.parameters()]
    baked = eraser.bake(model, force=True)
    after = [weight.detach() for part in parts for weight in part.parameters()]
    total = sum(float((b.double() - a.double()).square().sum()) for a, b in zip(before, after, strict=True))
    baked.undo()
    return math.sqrt(total) / sum(weight.numel() for weight in before)


@pytest.mark.parametrize("options", [{}, {"variant": "window", "technique": "tensor"}])
def test_it_is_the_change_of_the_baked_weights(tiny_model: Model, options: dict[str, Any]) -> None:
    eraser = efface.erase(tiny_model, "cat", "dog", **options)
    assert weight_change(eraser.edits, tiny_model) == pytest.approx(literal(eraser, tiny_model), rel=1e-4)


def test_edits_of_the_text_and_of_weights_add_up_as_they_are_baked(tiny_model: Model) -> None:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(2, 2, 32, 2, generator=generator).double()
    text = [TextEdit(left, right) for left, right in factors]
    name = tiny_model.text_parameters()[0]
    other = next(name for name, _ in tiny_model.text_encoder.named_parameters() if name.endswith("fc2.weight"))
    shapes = [tiny_model.denoiser.get_parameter(name).shape, tiny_model.text_encoder.get_parameter(other).shape]
    deltas = [torch.randn(shape, generator=generator) for shape in shapes]
    weights = [WeightEdit(f"denoiser.{name}", delta=deltas[0]), WeightEdit(f"text_encoder.{other}", delta=deltas[1])]
    eraser = replace(efface.erase(tiny_model, "cat", "dog"), edits=(*text, *weights))
    assert weight_change(eraser.edits, tiny_model) == pytest.approx(literal(eraser, tiny_model), rel=1e-4)


def test_what_is_in_no_weight_has_no_change(tiny_model: Model) -> None:
    guard = efface.erase(tiny_model, "cat", method="negative")
    assert weight_change(guard.edits, tiny_model) is None
