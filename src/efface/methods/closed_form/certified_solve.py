"""The solver of the certified eraser, in coordinates where the S norm is Euclidean; see `certified`.

The coordinates are F x with F^T F = S. With Q an orthonormal basis of F B, F C_o = (I - Q Q^T) F C = U diag(s) V^T, and

    M = I - (C - G) V diag(s)^-1 U^T F.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.edits.kinds import TextEdit
from efface.errors import BadRequest
from efface.methods.closed_form.ridge import check_finite
from efface.models.text_gram import TextGram

_MOVED = 1e-8  # relative change of a preserved token that is more than rounding
_LISTED = 10  # prompts in the list of the largest changes
_STAYED = 0.9  # share of the distance to the guide; a token that is left farther away was not erased


@dataclass(frozen=True, eq=False)
class Problem:
    """The edited tokens, their guides and the preserved tokens, as rows, float64.

    Attributes:
        gram: The matrix S.
        edited: The edited tokens C, (n, d).
        guides: Their guides G, (n, d).
        fixed: The tokens that must not move, the guides included, (m, d).
        preserved: The preserved tokens P, (p, d), or other rows with the same P^T P.
        count: The number of tokens in the sum P^T P.
        asked: The number of first rows of C whose mean norm scales mu; None for all rows.
    """

    gram: TextGram
    edited: Tensor
    guides: Tensor
    fixed: Tensor
    preserved: Tensor
    count: int
    asked: int | None = None


def solve_certified(
    problem: Problem, *, cut: float, concept_rank: int | None, preserve_rank: int | None, mu: float
) -> tuple[TextEdit, dict[str, Any]]:
    """Solve for the operator.

    Args:
        problem: The tokens and S.
        cut: The share of the longest edited token below which a direction is left alone.
        concept_rank: The largest number of directions of the concepts to cover; None for all.
        preserve_rank: The largest number of directions of the preserved tokens to preserve exactly; None for as many as
            fit in half of the text width.
        mu: The weight of the directions that are preserved approximately.

    Returns:
        The edit, and the numbers of directions that it covers and preserves, by name.

    Raises:
        BadInput: An embedding is not finite.
    """
    check_finite(problem.edited, problem.guides, problem.fixed, problem.preserved)
    exact, rank = _exact(problem, preserve_rank)
    exact_directions = len(exact) if len(exact) < rank else rank
    root = problem.gram.root
    if mu > 0 and exact_directions < rank:
        root = _softened(problem, mu)
    basis = orthonormal_span((torch.cat([problem.fixed, exact]) @ root.T).T)
    outside = orthogonal_part((problem.edited @ root.T).T, basis)
    left, values, right = torch.linalg.svd(outside, full_matrices=False)
    size = problem.gram.norms(problem.edited).max()
    covered = values > cut * size
    if concept_rank is not None:
        covered[concept_rank:] = False
    # Rounding leaves U slightly off the orthogonal complement of the basis where the projected tokens are short.
    left = orthogonal_part(left[:, covered], basis)
    moves = (problem.guides - problem.edited).T @ (right[covered].T / values[covered])
    orthonormal, triangle = torch.linalg.qr(root.T @ left)
    coverage = {
        "concept_directions": int(covered.sum()),
        "concept_directions_left_alone": len(problem.edited) - int(covered.sum()),
        "dimensions_kept_exactly": basis.shape[1],
        "preserve_directions_kept_exactly": exact_directions,
        "preserve_directions_kept_approximately": rank - exact_directions,
    }
    return TextEdit(moves @ triangle.T, orthonormal), coverage


def _exact(problem: Problem, limit: int | None) -> tuple[Tensor, int]:
    """The preserved tokens to preserve exactly, as rows, and the number of their directions outside of `fixed`."""
    root = problem.gram.root
    basis = orthonormal_span(root @ problem.fixed.T)
    directions = orthonormal_span(orthogonal_part(root @ problem.preserved.T, basis))
    rank = directions.shape[1]
    if limit is None:
        limit = max(0, problem.gram.matrix.shape[0] // 2 - basis.shape[1])
    if rank <= limit:
        return problem.preserved, rank
    return (problem.gram.inverse_root @ directions[:, :limit]).T, rank


def _softened(problem: Problem, mu: float) -> Tensor:
    """A root of (S^-1 + mu' Sigma)^-1, mu' = mu / mean |c|_S^2: K^-1/2 F with F^T F = S, K = I + mu' F Sigma F^T."""
    root = problem.gram.root
    scale = mu / float(problem.gram.norms(problem.edited[: problem.asked]).square().mean()) / problem.count
    heard = root @ problem.preserved.T
    factor = torch.linalg.cholesky(torch.eye(len(root), dtype=root.dtype) + scale * heard @ heard.T)
    return torch.linalg.solve_triangular(factor, root, upper=False)


def guide_error(edit: TextEdit, problem: Problem, owner: Tensor, names: Sequence[str]) -> float:
    """The largest remaining distance of an edited token from its guide, as a share of its original distance.

    Args:
        edit: The solution of the problem.
        problem: The problem.
        owner: The position in `names` of the concept of each edited token, (n,).
        names: The concepts.

    Raises:
        BadRequest: No token of some concept was erased.
    """
    way = (problem.edited - problem.guides).norm(dim=1)
    missed = ((edit(problem.edited) - problem.guides).norm(dim=1) / way).nan_to_num(0.0)
    for position, name in enumerate(names):
        if float(missed[owner == position].min()) > _STAYED:
            raise BadRequest(
                f"The preserved prompts leave nothing of '{name}' to erase: preserve less, or less of it exactly "
                "(preserve_rank), or choose another guide."
            )
    return float(missed.max())


def changes(prompts: Sequence[str], moved: Sequence[float]) -> dict[str, Any]:
    """Summarise the relative changes of preserved prompts that are preserved approximately, for the provenance."""
    worst = sorted(zip(moved, prompts, strict=True), reverse=True)[:_LISTED]
    return {
        "preserved_approximately": sum(share > _MOVED for share in moved),
        "mean_change": sum(moved) / len(moved),
        "worst_changes": {prompt: share for share, prompt in worst if share > _MOVED},
    }


def orthonormal_span(columns: Tensor) -> Tensor:
    """An orthonormal basis (r, k) of the span of the columns (r, m) up to rounding, leading directions first."""
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    if not len(values):
        return left
    return left[:, values > max(columns.shape) * torch.finfo(values.dtype).eps * values.max()]


def orthogonal_part(columns: Tensor, basis: Tensor) -> Tensor:
    """The part of the columns (r, m) orthogonal to an orthonormal basis (r, k), (r, m).

    The projection is applied twice, since the first one leaves rounding errors.
    """
    for _ in range(2):
        columns = columns - basis @ (basis.T @ columns)
    return columns
