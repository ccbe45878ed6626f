"""Changes of weights as LoRA factors, up (d_out, r) and down (r, d_in): exact where few do, else the best of a rank.

What is left out of a change D of higher rank is least, in the Frobenius norm, if its leading singular vectors are kept:
with D D^T = U diag(s^2) U^T, up = U_r and down = U_r^T D leave sum_{i > r} s_i^2. One eigendecomposition of the smaller
side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from efface.errors import BadInput
from efface.formats.changes import Change, changes

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


@dataclass(frozen=True, eq=False)
class Factors:
    """A LoRA of one module.

    Attributes:
        part: the part of the model that has the module.
        module: its name there.
        shape: of its weight.
        up: (d_out, r), float32.
        down: (r, all other dimensions), float32.
        lost: squared norm of what was left out.
        size: squared norm of the change.
    """

    part: str
    module: str
    shape: torch.Size
    up: Tensor
    down: Tensor
    lost: float
    size: float

    @property
    def rank(self) -> int:
        """r."""
        return len(self.down)

    def filled(self, rank: int) -> Factors:
        """The same with `rank` columns and rows, those that are new zero."""
        more = rank - self.rank
        return replace(self, up=pad(self.up, (0, more)), down=pad(self.down, (0, 0, 0, more)))

    def tensors(self) -> tuple[Tensor, Tensor]:
        """down and up in the shapes of a LoRA: of a convolution, down is one of its size, and up one of 1 x 1."""
        if len(self.shape) == 2:
            return self.down, self.up
        return self.down.reshape(self.rank, *self.shape[1:]), self.up[:, :, None, None]


def low_rank(eraser: Eraser, model: Model, rank: int | None) -> list[Factors]:
    """The factors of every module that an eraser changes, all of one rank.

    A smaller rank is filled up with zeros: readers differ in what they take a scale for where ranks do.

    Raises:
        BadInput: a LoRA cannot hold a change: a bias or a norm, or one that is not of low rank while `rank` is None;
            or there is no change.
    """
    made = [_factors(change, rank) for change in changes(eraser, model)]
    largest = max((factors.rank for factors in made), default=0)
    if not largest:
        raise BadInput("The eraser changes no weight; there is nothing to export.")
    return [factors.filled(largest) for factors in made]


def _factors(change: Change, rank: int | None) -> Factors:
    full, module = f"{change.part}.{change.name}", change.name.removesuffix(".weight")
    if change.weight.ndim not in (2, 4) or module == change.name or "embeddings." in change.name:
        raise BadInput(f"The eraser changes {full}, which a LoRA cannot hold; export it as diffusers or single-file.")
    if change.rest is None and change.up is not None and change.down is not None:
        up, down = change.up, change.down
        if rank is None or up.shape[1] <= rank:
            size = float(((up.T @ up) * (down @ down.T)).sum())
            return Factors(change.part, module, change.weight.shape, up.float(), down.float(), 0.0, size)
    if rank is None:
        raise BadInput(f"The eraser's change of {full} is not of low rank; give --rank, e.g. --rank 16, to cut it.")
    up, down, lost, size = _leading(change.matrix, rank)
    return Factors(change.part, module, change.weight.shape, up.float(), down.float(), lost, size)


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """up, down, and the squared norms of what they lack and of the whole."""
    if len(matrix) > matrix.shape[1]:
        down, up, lost, size = _leading(matrix.T, rank)
        return up.T, down.T, lost, size
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    kept, squares = vectors[:, -rank:], squares.clamp(min=0)
    return kept, kept.T @ matrix, float(squares[:-rank].sum()), float(squares.sum())
