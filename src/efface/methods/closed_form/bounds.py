"""The numbers of a certificate: the distance of an edit's range from a concept's tokens, in the S norm.

See `efface.eraser.certificate`.

Shapes: n tokens, d text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor

from efface.edits.composition import least_rank
from efface.edits.kinds import TextEdit
from efface.models.text_gram import TextGram

_SINGULAR = 1e-12  # share of 1 + |L|; a smaller singular value of M is zero apart from rounding


@dataclass(frozen=True)
class Certificate:
    """The share of a concept's keys and values that stays out of reach, under three assumptions.

    Attributes:
        free: For all embeddings.
        text: For the embeddings that the text encoder can produce; None if its last layer is no LayerNorm.
        ceiling: The largest possible value for an edit that leaves the guide unchanged.
    """

    free: float
    text: float | None
    ceiling: float


def certificates(
    edit: TextEdit, gram: TextGram, tokens: Tensor, guides: Tensor, affine: tuple[Tensor, Tensor] | None
) -> list[Certificate]:
    """Compute the certificate of each of n tokens.

    Args:
        edit: The edit, M - I.
        gram: The matrix S.
        tokens: The concept's tokens c, (n, d), float64.
        guides: The guides' tokens g, (n, d), float64.
        affine: The weight gamma and the bias beta of the text encoder's last LayerNorm, (d,) each; None if there is
            none.
    """
    return shares_of(residuals(edit, gram, tokens, guides, affine))


def residuals(
    edit: TextEdit, gram: TextGram, tokens: Tensor, guides: Tensor, affine: tuple[Tensor, Tensor] | None
) -> Tensor:
    """The numerators of `free`, `text` and `ceiling`, and their common denominator |c|_S.

    Args:
        edit: The edit, M - I.
        gram: The matrix S.
        tokens: The concept's tokens c, (n, d), float64.
        guides: The guides' tokens g, (n, d), float64.
        affine: The weight gamma and the bias beta of the text encoder's last LayerNorm, (d,) each; None if there is
            none.

    Returns:
        One row each, (4, n). The second row is NaN without `affine`.
    """
    edit = TextEdit(edit.left.cpu().double(), edit.right.cpu().double())
    norms = gram.norms(tokens)
    text = torch.full_like(norms, torch.nan) if affine is None else text_residuals(edit, gram, tokens, *affine)
    return torch.stack([free_residuals(edit, gram, tokens), text, gram.norms(tokens - guides), norms])


def shares_of(residual_norms: Tensor) -> list[Certificate]:
    """The certificates of n tokens from the result of `residuals`, (4, n)."""
    rows = (residual_norms[:3] / residual_norms[3]).T.tolist()
    return [Certificate(free, None if isnan(text) else text, ceiling) for free, text, ceiling in rows]


def free_residuals(edit: TextEdit, gram: TextGram, tokens: Tensor) -> Tensor:
    """min over all e in R^d of |M e - c|_S for each token c, (n,).

    With delta = M e - c = F^+ v + K t, where F^T F = S and S K = 0, the problem is: minimise |v| such that
    N^T delta = -N^T c.

    Args:
        edit: The edit, M - I.
        gram: The matrix S.
        tokens: The tokens c, (n, d), float64.
    """
    normals = _normals(edit)
    bound = normals.T @ gram.inverse_root
    sides = normals.T @ tokens.T
    # No layer reads the null space of S. A constraint that a vector of the null space can satisfy costs nothing.
    rows, strength, _ = torch.linalg.svd(normals.T @ gram.null_space)
    binding = rows[:, int((strength > 1e-10).sum()) :].T
    bound, sides = binding @ bound, binding @ sides
    return (torch.linalg.pinv(bound, rtol=1e-13) @ sides).norm(dim=0)


def _normals(edit: TextEdit) -> Tensor:
    """N, an orthonormal basis of null(M^T), (d, m): for orthonormal R it is R times that of I + L^T R."""
    edit = least_rank(edit)
    core = torch.eye(edit.rank, dtype=torch.float64) + edit.left.T @ edit.right
    _, values, rows = torch.linalg.svd(core)
    size = torch.linalg.matrix_norm(edit.left, 2) if edit.rank else 0.0
    return edit.right @ rows[values <= _SINGULAR * (1 + size)].T


def text_residuals(edit: TextEdit, gram: TextGram, tokens: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """min over e = gamma z + beta, 1^T z = 0, |z|^2 <= d, of |M e - c|_S for each token c, (n,).

    A = F M diag(gamma) (I - 1 1^T / d) = U diag(s) V^T and b = F (c - M beta) make it min |A z - b| over |z|^2 <= d,
    since the smallest such z has no part along 1. Either the least-squares solution lies in the ball, or
    z = (A^T A + mu I)^-1 A^T b with the one mu > 0 for which |z|^2 = d.

    Args:
        edit: The edit, M - I.
        gram: The matrix S.
        tokens: The tokens c, (n, d), float64.
        gamma: The weight of the text encoder's last LayerNorm, (d,).
        beta: Its bias, (d,).
    """
    left, values, _ = _visible_svd(edit, gram, gamma)
    aims = gram.root @ (tokens - edit(beta)).T
    shares = left.T @ aims
    beyond = (aims - left @ shares).norm(dim=0)
    damping = _damping(values, shares, edit.dim)
    inside = (damping * shares / (values[:, None].square() + damping)).norm(dim=0)
    return torch.hypot(beyond, inside)


def text_nearest(edit: TextEdit, gram: TextGram, tokens: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """The minimisers e of `text_residuals`: the best embeddings that the text encoder can produce.

    Args:
        edit: The edit, M - I.
        gram: The matrix S.
        tokens: The tokens c, (n, d), float64.
        gamma: The weight of the text encoder's last LayerNorm, (d,).
        beta: Its bias, (d,).

    Returns:
        One embedding per token, (n, d).
    """
    left, values, right = _visible_svd(edit, gram, gamma)
    shares = left.T @ gram.root @ (tokens - edit(beta)).T
    coordinates = values[:, None] * shares / (values[:, None].square() + _damping(values, shares, edit.dim))
    return coordinates.T @ right * gamma + beta


def _visible_svd(edit: TextEdit, gram: TextGram, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (r, k), s (k,) and V^T (k, d) of A, without singular values that are zero apart from rounding."""
    visible = gram.root @ (torch.diag(gamma) + edit.left @ (edit.right.T * gamma))
    left, values, right = torch.linalg.svd(visible - visible.mean(dim=1, keepdim=True), full_matrices=False)
    real = values > edit.dim * torch.finfo(values.dtype).eps * values.max()
    return left[:, real], values[real], right[real]


def _damping(values: Tensor, shares: Tensor, radius: int) -> Tensor:
    """The least mu >= 0, (n,), for which z = s share / (s^2 + mu) (k, n) has |z|^2 <= radius, by bisection."""
    lengths, squares = values[:, None] * shares, values[:, None].square()

    def outside(mu: Tensor) -> Tensor:
        return (lengths / (squares + mu)).square().sum(0) > radius

    low = torch.zeros(shares.shape[1], dtype=torch.float64)
    high = torch.where(outside(low), lengths.norm(dim=0) / radius**0.5, low)
    while bool(((low < (middle := (low + high) / 2)) & (middle < high)).any()):
        out = outside(middle)
        low, high = torch.where(out, middle, low), torch.where(out, high, middle)
    return high
