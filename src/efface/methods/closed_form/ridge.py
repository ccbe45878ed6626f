"""The ridge regression of UCE, RECE and similar methods, as one low-rank operator on the text embedding.

With the edited tokens as rows of C (n, d), their guides G (n, d) and the preserved tokens P, every matrix W that reads
the text has the minimiser

    W' = W (I + L R^T),   L = a (G - C)^T,   R = A^-1 C^T,   A = lamb I + a C^T C + b P^T P   (d x d)

of  a sum |W' c - W g|^2 + b sum |W' p - W p|^2 + lamb |W' - W|^2, and A does not depend on W: one solve serves all
layers. With m = n + p tokens and m < d it is cheaper by A^-1 T^T = T^T (lamb I + T T^T)^-1, T = [sqrt(a) C; sqrt(b) P],
which is m x m. All in float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from efface.edits.kinds import TextEdit
from efface.errors import BadInput


class PreservedTokens:
    """The preserved tokens P, in bounded memory.

    They are stored as rows (p, d) while p <= d, and as their Gram matrix P^T P (d, d) afterwards.
    """

    def __init__(self, width: int) -> None:
        self.rows = torch.zeros(0, width, dtype=torch.float64)
        self.gram: Tensor | None = None

    def add(self, tokens: Tensor) -> None:
        """Add preserved tokens (n, d)."""
        check_finite(tokens)
        tokens = tokens.double()
        if self.gram is None and len(self.rows) + len(tokens) <= tokens.shape[1]:
            self.rows = torch.cat([self.rows, tokens])
            return
        self.gram = self.moment + tokens.T @ tokens
        self.rows = self.rows[:0]

    @property
    def moment(self) -> Tensor:
        """P^T P, (d, d)."""
        return self.rows.T @ self.rows if self.gram is None else self.gram

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that an eraser stores: the rows (p, d) or the Gram matrix (d, d)."""
        return {"preserve.rows": self.rows} if self.gram is None else {"preserve.gram": self.gram}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], width: int) -> PreservedTokens:
        """The inverse of `tensors`, for width d."""
        preserved = cls(width)
        preserved.rows = tensors.get("preserve.rows", preserved.rows)
        preserved.gram = tensors.get("preserve.gram")
        return preserved


def solve_ridge(
    edited: Tensor,
    guides: Tensor,
    preserved: PreservedTokens,
    *,
    erase_scale: float,
    preserve_scale: float,
    lamb: float,
) -> TextEdit:
    """Solve for the operator that maps the edited tokens to their guides.

    With `lamb` 0 the result is the limit for lamb -> 0: the pseudo-inverse replaces the inverse.

    Args:
        edited: C, (n, d), float64.
        guides: G, (n, d), float64.
        preserved: The preserved tokens.
        erase_scale: The weight a of the edited tokens.
        preserve_scale: The weight b of the preserved tokens.
        lamb: The ridge.

    Returns:
        The edit, with orthonormal R, so that it is accurate in half precision; its rank is at most min(n, d).

    Raises:
        BadInput: An embedding is not finite.
    """
    check_finite(edited, guides)
    n, width = edited.shape
    left = erase_scale * (guides - edited).T
    right = right_factor(edited, preserved, erase_scale=erase_scale, preserve_scale=preserve_scale, lamb=lamb)
    if n >= width:
        return TextEdit(left @ right.T, torch.eye(width, dtype=torch.float64))
    orthonormal, triangle = torch.linalg.qr(right)
    return TextEdit(left @ triangle.T, orthonormal)


def right_factor(
    edited: Tensor, preserved: PreservedTokens, *, erase_scale: float, preserve_scale: float, lamb: float
) -> Tensor:
    """R = A^-1 C^T, which does not depend on the guides.

    Args:
        edited: C, (n, d), float64.
        preserved: The preserved tokens.
        erase_scale: The weight a of the edited tokens.
        preserve_scale: The weight b of the preserved tokens.
        lamb: The ridge.

    Returns:
        One column per edited token, (d, n).
    """
    n, width = edited.shape
    if preserved.gram is None and n + len(preserved.rows) < width:
        tokens = torch.cat([edited * erase_scale**0.5, preserved.rows * preserve_scale**0.5])
        unit = torch.eye(n, dtype=torch.float64)
        chosen = torch.cat([unit, torch.zeros(len(preserved.rows), n, dtype=torch.float64)])
        return tokens.T @ ridge(tokens @ tokens.T, chosen, lamb) / erase_scale**0.5
    return ridge(erase_scale * edited.T @ edited + preserve_scale * preserved.moment, edited.T, lamb)


def check_finite(*embeddings: Tensor) -> None:
    """Check embeddings of any shape, since an eraser computed from NaN would be NaN.

    Raises:
        BadInput: An embedding is not finite.
    """
    if not all(tokens.isfinite().all() for tokens in embeddings):
        raise BadInput("The text encoder's embeddings are not finite; its weights are damaged or overflow their type.")


def ridge(gram: Tensor, sides: Tensor, lamb: float) -> Tensor:
    """(gram + lamb I)^-1 sides, by Cholesky, or by pseudo-inverse if the matrix is singular.

    Args:
        gram: A symmetric positive semi-definite matrix, (m, m).
        sides: The right-hand sides, (m, k).
        lamb: The ridge.

    Returns:
        The solutions, (m, k).
    """
    check_finite(gram, sides)
    matrix = gram + lamb * torch.eye(len(gram), dtype=gram.dtype)
    if lamb > 0:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return torch.cholesky_solve(sides, factor)
    return torch.linalg.pinv(matrix, hermitian=True) @ sides
