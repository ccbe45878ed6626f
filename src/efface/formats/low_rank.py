"""Changes of weights as LoRA factors, up (d_out, r) and down (r, d_in): exact if the rank allows it, else the best fit.

The best approximation of rank r of a change D in the Frobenius norm uses its leading singular vectors: with
D D^T = U diag(s^2) U^T, up = U_r and down = U_r^T D have the squared error sum_{i > r} s_i^2. This takes one
eigendecomposition of the smaller side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from efface.errors import BadInput
from efface.formats.changes import ParameterChange, parameter_changes

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


@dataclass(frozen=True, eq=False)
class Factors:
    """The LoRA factors of one module.

    Attributes:
        part: The part of the model that has the module.
        module: The module's name in that part.
        shape: The shape of the module's weight.
        up: Of shape (d_out, r), float32.
        down: Of shape (r, d_in) with all other dimensions flattened, float32.
        lost: The squared norm of the discarded part.
        size: The squared norm of the change.
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
        """The rank r of the factors."""
        return len(self.down)

    def padded(self, rank: int) -> Factors:
        """The same factors, padded with zeros to a rank."""
        more = rank - self.rank
        return replace(self, up=pad(self.up, (0, more)), down=pad(self.down, (0, 0, 0, more)))

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The factors down and up as a LoRA stores them.

        For a linear layer their shapes are (r, d_in) and (d_out, r). For a convolution they are convolutions too, down
        with the size of the layer's kernel and up with the kernel 1 x 1: (r, c_in, h, w) and (d_out, r, 1, 1).
        """
        if len(self.shape) == 2:
            return self.down, self.up
        return self.down.reshape(self.rank, *self.shape[1:]), self.up[:, :, None, None]


def low_rank(eraser: Eraser, model: Model, rank: int | None) -> list[Factors]:
    """The factors of every module that an eraser changes, all of one rank.

    Factors of smaller rank are padded with zeros, because readers interpret the scale of mixed ranks differently.

    Args:
        eraser: The eraser.
        model: Its model.
        rank: The largest rank. None means that all changes must be of low rank.

    Raises:
        BadInput: A LoRA cannot represent a change, such as that of a bias or a norm, or a dense one if `rank` is None;
            or there is no change.
    """
    modules = [factors_of(change, rank) for change in parameter_changes(eraser, model)]
    if not any(factors.rank for factors in modules):
        raise BadInput("The eraser changes no weight; there is nothing to export.")
    return padded_to_one_rank(modules)


def padded_to_one_rank(modules: Sequence[Factors]) -> list[Factors]:
    """The factors, padded with zeros to the largest of their ranks."""
    largest = max((factors.rank for factors in modules), default=0)
    return [factors.padded(largest) for factors in modules]


def factors_of(change: ParameterChange, rank: int | None) -> Factors:
    """The factors of one change.

    Args:
        change: The change.
        rank: The largest rank. None means that the change must be of low rank.

    Raises:
        BadInput: A LoRA cannot represent the change.
    """
    full, module = f"{change.part}.{change.name}", change.name.removesuffix(".weight")
    if change.weight.ndim not in (2, 4) or module == change.name or "embeddings." in change.name:
        raise BadInput(
            f"The eraser changes {full}, which a LoRA cannot represent; export it as kohya (biases and norms of a "
            "U-Net), uce, diffusers or single-file."
        )
    if change.rest is None and change.up is not None and change.down is not None:
        up, down = change.up, change.down
        if rank is None or up.shape[1] <= rank:
            size = float(((up.T @ up) * (down @ down.T)).sum())
            return Factors(change.part, module, change.weight.shape, up.float(), down.float(), 0.0, size)
    if rank is None:
        raise BadInput(
            f"The eraser's change of {full} is not of low rank; pass --rank, e.g. --rank 16, to approximate it, or "
            "export it as kohya without --rank, which is exact for a U-Net."
        )
    up, down, lost, size = _leading(change.matrix, rank)
    return Factors(change.part, module, change.weight.shape, up.float(), down.float(), lost, size)


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """The factors up and down, and the squared norms of the discarded part and of the matrix."""
    if len(matrix) > matrix.shape[1]:
        down, up, lost, size = _leading(matrix.T, rank)
        return up.T, down.T, lost, size
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    up, squares = vectors[:, -rank:], squares.clamp(min=0)
    return up, up.T @ matrix, float(squares[:-rank].sum()), float(squares.sum())
