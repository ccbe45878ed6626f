"""The solve of the certified eraser, in coordinates where the S norm is the Euclidean one; see `certified`.

With F^T F = S, x -> F x, and Q an orthonormal basis of F B: F C_o = (I - Q Q^T) F C = U diag(s) V^T, so that

    M = I - (C - G) V diag(s)^-1 U^T F.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.edits import TextEdit
from efface.methods.closed_form import check_finite
from efface.models.text_gram import TextGram


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
    """

    gram: TextGram
    edited: Tensor
    guides: Tensor
    fixed: Tensor
    preserved: Tensor
    count: int


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
    scale = mu / float(problem.gram.norms(problem.edited).square().mean()) / problem.count
    heard = root @ problem.preserved.T
    factor = torch.linalg.cholesky(torch.eye(len(root), dtype=root.dtype) + scale * heard @ heard.T)
    return torch.linalg.solve_triangular(factor, root, upper=False)


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
