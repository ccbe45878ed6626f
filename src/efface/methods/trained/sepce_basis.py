"""The directions that a change for one concept may use: those in which no protected prompt has any part.

    E_k: all tokens of the empty prompt, of what is preserved, and of the other concepts; rows, padding included
    N_k: rows that span { n : E_k n = 0 }

The published scripts take the free-variable basis of E_k's reduced row echelon form, each vector scaled to length 1
(sympy's `nullspace`). An orthonormal basis of the same space is better conditioned and quick; Adam, whose steps depend
on the basis, goes another way in it. Both in float64.

Tokens are never quite dependent, so a direction is free while its part in E_k is below a share `tolerance` of E_k's
largest singular value. A tolerance that is more than rounding makes room for more prompts than a text encoder's width
allows, and protects them in part; the empty prompt, which guidance reads in every picture, is protected in full anyhow.

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

EXACT = 1e-6  # a share of a singular value that is nothing but the rounding of float32 embeddings
_PIVOT = 1e-9


def protected(request: Request, concept: str) -> list[str]:
    """The prompts that a concept's change leaves alone, the empty one first."""
    return list(dict.fromkeys(["", *request.preserve, *(name for name in request.names if name != concept)]))


def bases(model: Model, request: Request, tolerance: float, published: bool) -> dict[str, Tensor]:
    """N_k of each concept, (b, d), float64.

    Args:
        model: Of which only the text encoder is used.
        request: The concepts, and what is preserved.
        tolerance: Below which share a direction is free.
        published: The basis of the scripts instead of an orthonormal one.

    Raises:
        BadRequest: What is protected leaves a concept no direction.
    """
    (empty,) = model.embed([""], clip_skip=request.clip_skip).tokens.double()
    named = model.embed(request.names, clip_skip=request.clip_skip).tokens.double()  # (k, T, d)
    check_finite(empty, named)
    free = null_space(empty, EXACT * _size(empty))
    preserved = _triangle(model, request.preserve, request.clip_skip)
    found: dict[str, Tensor] = {}
    for index, name in enumerate(request.names):
        others = torch.cat([named[:index], named[index + 1 :]]).flatten(0, 1)
        basis, rows = free, torch.cat([preserved, others])
        if len(rows):
            basis = null_space(torch.linalg.qr(rows, mode="r").R @ free.T, tolerance * _size(rows)) @ free
        # A text encoder may leave directions that no prompt has any part in.
        if not len(basis) or _size(named[index] @ basis.T) <= EXACT * _size(named[index]):
            raise BadRequest(
                f"sepce protects {len(protected(request, name))} prompts from what it does to '{name}', and leaves no "
                f"direction of the text, {model.width} wide, that '{name}' has a part in; protect fewer, or some of it "
                "less, e.g. -s tolerance=0.05."
            )
        found[name] = free_variables(basis) if published else basis
    return found


class Confined(Weights):
    """Changes of linear maps, one for each concept, that use given directions only.

    Args:
        denoiser: Has the maps.
        names: Their weights.
        directions: Beta N_k of each concept, (b_k, d).
    """

    def __init__(self, denoiser: nn.Module, names: Iterable[str], directions: Sequence[Tensor]) -> None:
        super().__init__()
        self.names = tuple(names)
        self._base = [denoiser.get_parameter(name).detach() for name in self.names]
        self._directions = [each.to(self._base[0].device, torch.float32) for each in directions]
        # A_kl, (d_out, b_k), one concept's after the other's.
        self.coefficients = nn.ParameterList(
            nn.Parameter(each.new_zeros(len(base), len(each))) for each in self._directions for base in self._base
        )

    def of(self, concept: int) -> list[Tensor]:
        """A_kl of one concept."""
        first = concept * len(self.names)
        return [self.coefficients[first + index] for index in range(len(self.names))]

    def changes(self, concept: int) -> list[Tensor]:
        """Delta_kl of one concept."""
        # Half precision would leave the null space.
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
    """The change as factors, or multiplied out where that is smaller: each edit has a copy of the directions."""
    dense = coefficients.shape[0] * directions.shape[1]
    if coefficients.numel() + directions.numel() >= dense:
        return WeightEdit(parameter, delta=coefficients @ directions)
    return WeightEdit(parameter, up=coefficients, down=directions)


def null_space(rows: Tensor, cut: float) -> Tensor:
    """Orthonormal rows (b, d) that span the directions in which `rows` (., d) have singular values up to `cut`."""
    _, values, right = torch.linalg.svd(rows)
    return right[int((values > cut).sum()) :]


def free_variables(basis: Tensor) -> Tensor:
    """The published basis of the space that `basis` (b, d) spans.

    Each of its vectors has a free variable to itself, after which it is 0. So read from the last variable to the first,
    it is the reduced row echelon form of the space.
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
