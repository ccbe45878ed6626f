"""Operators on the text embedding, one after the other, as one of the least rank."""

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

import torch

from efface.edits.kinds import TextEdit


def composed(first: TextEdit, second: TextEdit) -> TextEdit:
    """The edit of a model that is edited by `first`, and then, as it is by then, by `second`.

    On weights it is W (I + L_1 R_1^T) (I + L_2 R_2^T) = W (I + L R^T) with L = [L_1, L_2 + L_1 R_1^T L_2] and
    R = [R_1, R_2].
    """
    left = torch.cat([first.left, second.left + first.left @ (first.right.T @ second.left)], dim=1)
    return least_rank(TextEdit(left, torch.cat([first.right, second.right], dim=1), first.stream))


def by_stream(edits: Iterable[object]) -> dict[str, TextEdit]:
    """All text edits of each stream as one, in float64: the text passes the first one first, which in a weight is last.

    What else is among `edits` is left out.
    """
    of_stream: dict[str, list[TextEdit]] = {}
    for edit in edits:
        if isinstance(edit, TextEdit):
            wide = replace(edit, left=edit.left.double(), right=edit.right.double())
            of_stream.setdefault(edit.stream, []).append(wide)
    return {stream: reduce(lambda first, second: composed(second, first), some) for stream, some in of_stream.items()}


def least_rank(edit: TextEdit) -> TextEdit:
    """The same operator with as few columns as its rank, above rounding, and R orthonormal."""
    (outer, inner), (right, core) = torch.linalg.qr(edit.left), torch.linalg.qr(edit.right)
    rows, values, columns = torch.linalg.svd(inner @ core.T)
    kept = values > edit.dim * torch.finfo(values.dtype).eps * values.max() if len(values) else values > 0
    return TextEdit(outer @ rows[:, kept] * values[kept], right @ columns[kept].T, edit.stream)
