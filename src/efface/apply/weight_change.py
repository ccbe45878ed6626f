"""How far edits move a model's weights: the tie-break of the U&ME challenge (ICCV 2025).

    |theta' - theta|_F / #theta

over the denoiser and the text encoders; a text edit counts as it is when baked, W' = (W + delta) (I + L R^T).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.apply.bake import summed
from efface.edits.kinds import Edit, TextEdit, WeightEdit, kind_of
from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.models.model import Model


@torch.no_grad()
def weight_change(edits: Sequence[Edit], model: Model) -> float | None:
    """The change per parameter; None if an edit is in no weight that can be written.

    These are guards, text that no linear map reads, and quantised weights.

    Args:
        edits: The edits of an eraser.
        model: A model that they are made for, unedited.
    """
    if kind_of(edits) == "guard":
        return None
    deltas: dict[tuple[str, str], list[WeightEdit]] = {}
    texts: dict[tuple[str, str], list[TextEdit]] = {}
    for edit in edits:
        if isinstance(edit, WeightEdit):
            part, _, name = edit.parameter.partition(".")
            deltas.setdefault((part, name), []).append(edit)
    try:
        # In the order in which they are baked: the text passes the first edit first.
        for edit in reversed([edit for edit in edits if isinstance(edit, TextEdit)]):
            for name in model.reading(edit.stream).text_parameters():
                texts.setdefault(("denoiser", name), []).append(edit)
        names = {**deltas, **texts}
        moved = [
            _moved(weight.double(), deltas.get((part, name), []), texts.get((part, name), []))
            for part in dict.fromkeys(part for part, _ in names)
            for name, weight in model.weights(part, {name for other, name in names if other == part})
        ]
    except BadInput:
        return None
    parts = (model.denoiser, *model.text_encoders)
    return math.sqrt(math.fsum(moved)) / sum(weight.numel() for part in parts for weight in part.parameters())


def _moved(before: Tensor, deltas: list[WeightEdit], texts: list[TextEdit]) -> float:
    """|W' - W|_F^2 of one weight, float64."""
    after = summed(deltas, before)
    for edit in texts:
        after = edit.on(after)
    return float((after - before).square().sum())
