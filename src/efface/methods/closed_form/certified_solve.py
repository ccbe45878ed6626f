"""The solve of the certified eraser, in coordinates where the S norm is the Euclidean one; see `certified`.

With F^T F = S, x -> F x, and Q an orthonormal basis of F B: F C_o = (I - Q Q^T) F C = U diag(s) V^T, so that

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
_LISTED = 10
_STAYED = 0.9  # share of its way to the guide that is left: then a token was not erased


@dataclass(frozen=True, eq=False)
class Problem:
    """What to send where and what to keep; tokens as rows, float64.

    Attributes:
        gram: S.
        edited: C, (n, d).
        guides: G, (n, d).
        fixed: what must not move, the guides among it, (m, d).
        preserved: P, (p, d); or other rows with the same P^T P.
        count: how many tokens P^T P sums.
        asked: how many of the first rows of C set what mu is worth; None is all of them.
    """

    gram: TextGram
    edited: Tensor
    guides: Tensor
    fixed: Tensor
    preserved: Tensor
    count: int
    asked: int | None = None


def solve(
    problem: Problem, *, cut: float, concept_rank: int | None, preserve_rank: int | None, mu: float
) -> tuple[TextEdit, dict[str, Any]]:
    """The operator, and how many directions of what it covers and keeps."""
    check_finite(problem.edited, problem.guides, problem.fixed, problem.preserved)
    exact, rank = _exact(problem, preserve_rank)
    kept_exactly = len(exact) if len(exact) < rank else rank
    root = problem.gram.root
    if mu > 0 and kept_exactly < rank:
        root = _softened(problem, mu)
    basis = span((torch.cat([problem.fixed, exact]) @ root.T).T)
    outside = apart((problem.edited @ root.T).T, basis)
    left, values, right = torch.linalg.svd(outside, full_matrices=False)
    size = problem.gram.norms(problem.edited).max()
    covered = values > cut * size
    if concept_rank is not None:
        covered[concept_rank:] = False
    # Against rounding: U is orthogonal to what is kept only as far as the difference that made it was large.
    left = apart(left[:, covered], basis)
    moves = (problem.guides - problem.edited).T @ (right[covered].T / values[covered])
    orthonormal, triangle = torch.linalg.qr(root.T @ left)
    said = {
        "concept_directions": int(covered.sum()),
        "concept_directions_left_alone": len(problem.edited) - int(covered.sum()),
        "dimensions_kept_exactly": basis.shape[1],
        "preserve_directions_kept_exactly": kept_exactly,
        "preserve_directions_kept_approximately": rank - kept_exactly,
    }
    return TextEdit(moves @ triangle.T, orthonormal), said


def _exact(problem: Problem, limit: int | None) -> tuple[Tensor, int]:
    """What of the preserved tokens to keep exactly, as rows, and how many directions they have beside `fixed`."""
    root = problem.gram.root
    basis = span(root @ problem.fixed.T)
    directions = span(apart(root @ problem.preserved.T, basis))
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
    """How far, at worst, a token of C is read from its guide, as a share of the way there.

    Args:
        edit: the operator.
        problem: that it solves.
        owner: (n,), position in `names` of the concept that a token of C belongs to.
        names: the concepts.

    Raises:
        BadRequest: of some concept, nothing moved.
    """
    way = (problem.edited - problem.guides).norm(dim=1)
    missed = ((edit(problem.edited) - problem.guides).norm(dim=1) / way).nan_to_num(0.0)
    for position, name in enumerate(names):
        if float(missed[owner == position].min()) > _STAYED:
            raise BadRequest(
                f"What is kept leaves nothing of '{name}' to erase: preserve less, or less of it exactly "
                "(preserve_rank), or take another guide."
            )
    return float(missed.max())


def changes(prompts: Sequence[str], moved: Sequence[float]) -> dict[str, Any]:
    """What an eraser says of preserved prompts that are not kept exactly, by the relative change of each."""
    worst = sorted(zip(moved, prompts, strict=True), reverse=True)[:_LISTED]
    return {
        "preserved_approximately": sum(share > _MOVED for share in moved),
        "mean_change": sum(moved) / len(moved),
        "worst_changes": {prompt: share for share, prompt in worst if share > _MOVED},
    }


def span(columns: Tensor) -> Tensor:
    """An orthonormal basis of what the columns (r, m) span above rounding, leading directions first."""
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    if not len(values):
        return left
    return left[:, values > max(columns.shape) * torch.finfo(values.dtype).eps * values.max()]


def apart(columns: Tensor, basis: Tensor) -> Tensor:
    """The part of the columns orthogonal to an orthonormal basis; twice, since once leaves rounding behind."""
    for _ in range(2):
        columns = columns - basis @ (basis.T @ columns)
    return columns
