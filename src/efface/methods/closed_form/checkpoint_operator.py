"""The operator on the text embedding that an edited checkpoint applies, for methods that start from a checkpoint.

UCE writes W_l' = W_l M into every map that reads the text, so M follows from a checkpoint of such weights by

    M - I = argmin_D sum_l |W_l D - (W_l' - W_l)|^2 = S^+ sum_l W_l^T (W_l' - W_l),   S = sum_l W_l^T W_l
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from efface.edits.kinds import Edit, TextEdit, WeightEdit
from efface.errors import BadRequest
from efface.models.model import Model
from efface.models.text_gram import TextGram

_REMAINDER = 0.1  # largest share of a change outside of the operator, from rounding to half precision
_ROUNDING = 1e-9  # share of the largest singular value; smaller ones are rounding errors


def operator_of(edits: Sequence[Edit], path: str, model: Model, gram: TextGram) -> TextEdit:
    """Convert an eraser's edits to one operator on the text that `model` reads, M - I, (d, d), of low rank.

    Args:
        edits: The edits of an eraser by uce, or of a checkpoint of the reference converted by `efface import`.
        path: The file of the eraser, for messages.
        model: The base model.
        gram: The matrix S of the model.

    Raises:
        BadRequest: The edits are not one operator on the text.
    """
    texts = [edit for edit in edits if isinstance(edit, TextEdit)]
    if len(texts) == len(edits) == 1 and texts[0].stream == model.stream:
        return TextEdit(texts[0].left.double(), texts[0].right.double(), model.stream)
    changes = {edit.parameter: edit for edit in edits if isinstance(edit, WeightEdit)}
    names = {f"denoiser.{name}" for name in model.text_parameters()}
    if not changes or len(changes) != len(edits) or not changes.keys() <= names:
        raise BadRequest(f"rece cannot start from {path}: it changes more than the keys and values of the text.")
    matrix, remainder = _operator(changes, model, gram)
    if remainder > _REMAINDER:
        raise BadRequest(
            f"rece cannot start from {path}: it is not one edit of the text for all layers ({remainder:.0%} of its "
            "change is outside of any such edit), so it was not made by uce's technique 'replace'."
        )
    left, values, right = torch.linalg.svd(matrix)
    significant = values > max(remainder, _ROUNDING) * values[0]  # the remainder hides smaller ones
    return TextEdit(left[:, significant] * values[significant], right[significant].T.contiguous(), model.stream)


def _operator(changes: Mapping[str, WeightEdit], model: Model, gram: TextGram) -> tuple[Tensor, float]:
    """M - I (d, d), and the share of the change outside of it."""
    cross, size = torch.zeros_like(gram.matrix), 0.0
    for name, weight in model.text_weights():
        if (edit := changes.get(f"denoiser.{name}")) is not None:
            change = edit.value(weight.shape).cpu().double()
            cross.addmm_(weight.cpu().double().T, change)
            size += float(change.square().sum())
    matrix = gram.inverse_root @ (gram.inverse_root.T @ cross)
    # |W D - change|^2 = |change|^2 - tr(D^T cross) at the minimum.
    left_out = max(size - float((matrix * cross).sum()), 0.0)
    return matrix, (left_out / size) ** 0.5
