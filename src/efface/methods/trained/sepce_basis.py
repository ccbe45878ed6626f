"""The directions that a concept's change may use: those orthogonal to all tokens of the protected prompts.

    E_k: all tokens of the empty prompt, the preserved prompts and the other concepts, padding included, as rows
    N_k: rows that span { n : E_k n = 0 }

The published scripts take the free-variable basis of E_k's reduced row echelon form, each vector scaled to length 1
(sympy's `nullspace`). An orthonormal basis of the same space is better conditioned and faster. Adam's steps depend on
the basis, so the results differ. Both are in float64.

Tokens are never exactly dependent, so a direction is free if its singular value in E_k is below the share `tolerance`
of the largest one. A larger tolerance allows more prompts than the text encoder's width, and protects them partly. The
empty prompt, which guidance reads for every image, is always protected fully.

Shapes: T tokens of a prompt, d text width, b directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from efface.edits.kinds import WeightEdit
from efface.errors import BadRequest
from efface.methods.closed_form.ridge import check_finite
from efface.methods.closed_form.tokens import BATCH
from efface.methods.training.weights import Weights
from efface.models.model import Model
from efface.request.record import Request

EXACT = 1e-6  # share of a singular value; a smaller one is the rounding of float32 embeddings
_PIVOT = 1e-9


def protected_prompts(request: Request, concept: str) -> list[str]:
    """The prompts that a concept's change must not affect, the empty one first."""
    return list(dict.fromkeys(["", *request.preserve, *(name for name in request.names if name != concept)]))


def bases(model: Model, request: Request, tolerance: float, published: bool) -> dict[str, Tensor]:
    """Compute the basis N_k of each concept.

    Args:
        model: The model, of which only the text encoder is used.
        request: The concepts and the preserved prompts.
        tolerance: The share of the largest singular value below which a direction is free.
        published: Whether to return the basis of the scripts instead of an orthonormal one.

    Returns:
        The basis of each concept, (b, d), float64, by name.

    Raises:
        BadRequest: The protected prompts leave no direction for a concept.
    """
    (empty,) = model.embed([""], clip_skip=request.clip_skip).tokens.double()
    named = model.embed(request.names, clip_skip=request.clip_skip).tokens.double()  # (k, T, d)
    check_finite(empty, named)
    free = null_space(empty, EXACT * _size(empty))
    preserved = _triangle(model, request.preserve, request.clip_skip)
    directions: dict[str, Tensor] = {}
    for index, name in enumerate(request.names):
        others = torch.cat([named[:index], named[index + 1 :]]).flatten(0, 1)
        basis, rows = free, torch.cat([preserved, others])
        if len(rows):
            basis = null_space(torch.linalg.qr(rows, mode="r").R @ free.T, tolerance * _size(rows)) @ free
        # A text encoder may have directions that no prompt uses.
        if not len(basis) or _size(named[index] @ basis.T) <= EXACT * _size(named[index]):
            raise BadRequest(
                f"The {len(protected_prompts(request, name))} protected prompts leave sepce no direction for '{name}' "
                f"in the {model.width} dimensions of the text; protect fewer, or set e.g. -s tolerance=0.05."
            )
        directions[name] = free_variables(basis) if published else basis
    return directions


class Confined(Weights):
    """Changes of linear maps, one for each concept, within given directions.

    Args:
        denoiser: The denoiser with the maps.
        names: The names of their weights.
        directions: The basis beta N_k of each concept, (b_k, d).
    """

    def __init__(self, denoiser: nn.Module, names: Iterable[str], directions: Sequence[Tensor]) -> None:
        super().__init__()
        self.names = tuple(names)
        self._base = [denoiser.get_parameter(name).detach() for name in self.names]
        self._directions = [each.to(self._base[0].device, torch.float32) for each in directions]
        # A_kl, (d_out, b_k), in the order of concepts, then of maps.
        self.coefficients = nn.ParameterList(
            nn.Parameter(each.new_zeros(len(base), len(each))) for each in self._directions for base in self._base
        )

    def of(self, concept: int) -> list[Tensor]:
        """The coefficients A_kl of one concept, (d_out, b_k) for each map."""
        first = concept * len(self.names)
        return [self.coefficients[first + index] for index in range(len(self.names))]

    def changes(self, concept: int) -> list[Tensor]:
        """The changes Delta_kl of one concept, (d_out, d) for each map."""
        # In half precision the change would not be in the null space.
        with torch.autocast(self._base[0].device.type, enabled=False):
            return [coefficients @ self._directions[concept] for coefficients in self.of(concept)]

    def forward(self) -> dict[str, Tensor]:
        each = zip(*(self.changes(concept) for concept in range(len(self._directions))), strict=True)
        return {
            name: sum(changes, base.float()).to(base.dtype)
            for name, base, changes in zip(self.names, self._base, each, strict=True)
        }

    def edits(self) -> tuple[WeightEdit, ...]:
        return tuple(
            _edit(f"denoiser.{name}", coefficients.detach().cpu(), directions.cpu())
            for concept, directions in enumerate(self._directions)
            for name, coefficients in zip(self.names, self.of(concept), strict=True)
        )

    def owners(self) -> tuple[int, ...]:
        return tuple(concept for concept in range(len(self._directions)) for _ in self.names)


def _edit(parameter: str, coefficients: Tensor, directions: Tensor) -> WeightEdit:
    """The change as factors, or as a matrix if that is smaller, since each edit has a copy of the directions."""
    dense = coefficients.shape[0] * directions.shape[1]
    if coefficients.numel() + directions.numel() >= dense:
        return WeightEdit(parameter, delta=coefficients @ directions)
    return WeightEdit(parameter, up=coefficients, down=directions)


def null_space(rows: Tensor, cut: float) -> Tensor:
    """Orthonormal rows (b, d) that span the directions in which `rows` (n, d) have singular values up to `cut`."""
    _, values, right = torch.linalg.svd(rows)
    return right[int((values > cut).sum()) :]


def free_variables(basis: Tensor) -> Tensor:
    """The published basis, (b, d), of the space that `basis` (b, d) spans.

    Each of its vectors has one free variable, and is 0 after it. So with the variables in reverse order, it is the
    reduced row echelon form of the space.
    """
    rows = basis.flip(1)
    done = 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        best = done + int(rows[done:, column].abs().argmax())
        if rows[best, column].abs() < _PIVOT:
            continue
        rows[[done, best]] = rows[[best, done]]
        rows[done] /= rows[done, column].clone()
        factors = rows[:, column].clone()
        factors[done] = 0
        rows -= factors[:, None] * rows[done]
        done += 1
    rows = rows.flip(0, 1)
    return rows / rows.norm(dim=1, keepdim=True)


def _triangle(model: Model, prompts: Sequence[str], clip_skip: int | None) -> Tensor:
    """At most d rows with the same null space and singular values as all tokens of `prompts`."""
    rows = torch.zeros(0, model.width, dtype=torch.float64)
    for first in range(0, len(prompts), BATCH):
        tokens = model.embed(prompts[first : first + BATCH], clip_skip=clip_skip).tokens.flatten(0, 1).double()
        check_finite(tokens)
        rows = torch.linalg.qr(torch.cat([rows, tokens]), mode="r").R
    return rows


def _size(rows: Tensor) -> float:
    """The largest singular value."""
    return float(torch.linalg.matrix_norm(rows, 2))
