"""Operators on the text embedding, one after the other, as one of the least rank."""

import torch

from efface.edits import TextEdit


def composed(first: TextEdit, second: TextEdit) -> TextEdit:
    """The edit of a model that is edited by `first`, and then, as it is by then, by `second`.

    On weights it is W (I + L_1 R_1^T) (I + L_2 R_2^T) = W (I + L R^T) with L = [L_1, L_2 + L_1 R_1^T L_2] and
    R = [R_1, R_2].
    """
    left = torch.cat([first.left, second.left + first.left @ (first.right.T @ second.left)], dim=1)
    return least_rank(TextEdit(left, torch.cat([first.right, second.right], dim=1), first.stream))


def least_rank(edit: TextEdit) -> TextEdit:
    """The same operator with as few columns as its rank, above rounding, and R orthonormal."""
    (outer, inner), (right, core) = torch.linalg.qr(edit.left), torch.linalg.qr(edit.right)
    rows, values, columns = torch.linalg.svd(inner @ core.T)
    kept = values > edit.dim * torch.finfo(values.dtype).eps * values.max() if len(values) else values > 0
    return TextEdit(outer @ rows[:, kept] * values[kept], right @ columns[kept].T, edit.stream)
