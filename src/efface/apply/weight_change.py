"""How far an eraser moves a model's weights: the tie-break of the U&ME challenge (ICCV 2025).

    |theta' - theta|_F / #theta

over the denoiser and the text encoders, with an edit of the text as it is in weights, W' = (W + delta) (I + L R^T).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.apply.bake import summed
from efface.edits.kinds import TextEdit, WeightEdit
from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


@torch.no_grad()
def weight_change(eraser: Eraser, model: Model) -> float | None:
    """The change a parameter; None where a part of the edit is in no weight (a guard, text that no linear map reads).

    Args:
        eraser: what is measured.
        model: a model that it is made for, with no eraser on it.
    """
    if eraser.kind_of_edit == "guard":
        return None
    deltas: dict[tuple[str, str], list[WeightEdit]] = {}
    texts: dict[tuple[str, str], list[TextEdit]] = {}
    for edit in eraser.edits:
        if isinstance(edit, WeightEdit):
            part, _, name = edit.parameter.partition(".")
            deltas.setdefault((part, name), []).append(edit)
    try:
        # In the order in which they are baked: the text passes the first edit first.
        for edit in reversed([edit for edit in eraser.edits if isinstance(edit, TextEdit)]):
            for name in model.reading(edit.stream).text_parameters():
                texts.setdefault(("denoiser", name), []).append(edit)
    except BadInput:
        return None
    names = {**deltas, **texts}
    moved = [
        _moved(weight.double(), deltas.get((part, name), []), texts.get((part, name), []))
        for part in dict.fromkeys(part for part, _ in names)
        for name, weight in model.weights(part, {name for other, name in names if other == part})
    ]
    parts = (model.denoiser, *model.text_encoders)
    return math.sqrt(math.fsum(moved)) / sum(weight.numel() for part in parts for weight in part.parameters())


def _moved(before: Tensor, deltas: list[WeightEdit], texts: list[TextEdit]) -> float:
    """|W' - W|_F^2 of one weight, float64."""
    after = summed(deltas, before)
    for edit in texts:
        after = edit.on(after)
    return float((after - before).square().sum())
