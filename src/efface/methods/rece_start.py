"""The edit that an eraser of UCE is, however it is stored: what RECE starts from when it is given one.

UCE writes W_l' = W_l M into every map that reads the text, so of a checkpoint of such weights M is found again:

    M - I = argmin_D sum_l |W_l D - (W_l' - W_l)|^2 = S^+ sum_l W_l^T (W_l' - W_l),    S = sum_l W_l^T W_l
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.base_check import check_base
from efface.edits import TextEdit, WeightEdit
from efface.eraser import Eraser
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.models.base import Model
    from efface.models.text_gram import TextGram

_ELSEWHERE = 0.1  # share of a change that rounding to half precision may put beside the operator
_ROUNDING = 1e-9  # of its largest singular value: what is smaller is rounding in any case


def edit_of_checkpoint(path: str, model: Model, gram: TextGram) -> TextEdit:
    """What an eraser's file does to the text that `model` reads, as one operator.

    Args:
        path: an eraser by uce, or one that `efface import` made of a checkpoint by the reference.
        model: the base.
        gram: its S.

    Raises:
        BadRequest: it does something else.
        WrongBase: it is of another base.
        BadFile: it cannot be read.
    """
    if not path.endswith(".safetensors"):
        raise BadRequest(f"target_ckpt is an eraser's file: make one of {path} by efface import first.")
    eraser = Eraser.load(Path(path))
    check_base(eraser, model)
    texts = [edit for edit in eraser.edits if isinstance(edit, TextEdit)]
    if len(texts) == len(eraser.edits) == 1 and texts[0].stream == model.stream:
        return TextEdit(texts[0].left.double(), texts[0].right.double(), model.stream)
    changes = {edit.parameter: edit for edit in eraser.edits if isinstance(edit, WeightEdit)}
    names = {f"denoiser.{name}" for name in model.text_parameters()}
    if not changes or len(changes) != len(eraser.edits) or not changes.keys() <= names:
        raise BadRequest(f"rece cannot start from {path}: it changes more than what the text's keys and values are.")
    matrix, beside = _operator(changes, model, gram)
    if beside > _ELSEWHERE:
        raise BadRequest(
            f"rece cannot start from {path}: it is not one edit of the text for all layers ({beside:.0%} of its change "
            "is something else), so uce did not make it by replacing."
        )
    left, values, right = torch.linalg.svd(matrix)
    kept = values > max(beside, _ROUNDING) * values[0]  # smaller ones are not told from what is beside
    return TextEdit(left[:, kept] * values[kept], right[kept].T.contiguous(), model.stream)


def _operator(changes: Mapping[str, WeightEdit], model: Model, gram: TextGram) -> tuple[Tensor, float]:
    """M - I (d, d), and the share of the change that it leaves out."""
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
