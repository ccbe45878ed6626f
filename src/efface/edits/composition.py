"""Several text edits as one operator of the least rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

import torch

from efface.edits.kinds import TextEdit


def composed(first: TextEdit, second: TextEdit) -> TextEdit:
    """The edit of a model that was edited by `first` and is then edited by `second`.

    On weights it is W (I + L_1 R_1^T) (I + L_2 R_2^T) = W (I + L R^T) with L = [L_1, L_2 + L_1 R_1^T L_2] and
    R = [R_1, R_2].
    """
    left = torch.cat([first.left, second.left + first.left @ (first.right.T @ second.left)], dim=1)
    return least_rank(TextEdit(left, torch.cat([first.right, second.right], dim=1), first.stream))


def by_stream(edits: Iterable[object]) -> dict[str, TextEdit]:
    """All text edits of each stream as one, in float64; other edits are ignored.

    The text passes the first edit first; in a weight, the first edit is the last factor.
    """
    of_stream: dict[str, list[TextEdit]] = {}
    for edit in edits:
        if isinstance(edit, TextEdit):
            edit64 = replace(edit, left=edit.left.double(), right=edit.right.double())
            of_stream.setdefault(edit.stream, []).append(edit64)
    return {stream: reduce(lambda first, second: composed(second, first), some) for stream, some in of_stream.items()}


def least_rank(edit: TextEdit) -> TextEdit:
    """The same operator with as many columns as its numerical rank, and with R orthonormal."""
    (outer, inner), (right, core) = torch.linalg.qr(edit.left), torch.linalg.qr(edit.right)
    rows, values, columns = torch.linalg.svd(inner @ core.T)
    significant = values > edit.dim * torch.finfo(values.dtype).eps * values.max() if len(values) else values > 0
    return TextEdit(outer @ rows[:, significant] * values[significant], right @ columns[significant].T, edit.stream)
