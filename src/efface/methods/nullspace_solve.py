"""The null-space edit of one weight, and the directions that it may use.

With keys as columns of K1 (h, n), their wanted values V1 (d, n), an orthogonal projector P onto the directions that
protected keys K0 (nearly) never point in, and keys Kp of earlier edits:

    Delta = R K1^T P (K1 K1^T P + Kp Kp^T P + lamb I)^-1,   R = V1 - W K1          (h x h)
          = [R, 0] (K^T P K + lamb I)^-1 K^T P,             K = [K1, Kp]           (n x n)

which is AlphaEdit's closed form (arXiv 2410.02355), and the same with P = U U^T kept as its basis U. So Delta K0 ~ 0,
Delta P = Delta, and the rank of Delta is at most n. If K1 and Kp are c copies of k and kp with residuals r_1 .. r_c,
both sides divide by c: it is the edit of k and kp with the mean residual and lamb / c. All in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efface.edits import WeightEdit
from efface.methods.closed_form import ridge


def free_directions(gram: Tensor, threshold: float, at_least: int) -> Tensor:
    """U, (h, s), orthonormal: the directions in which the protected keys are smallest.

    Args:
        gram: K0 K0^T, (h, h), float64.
        threshold: singular values of it below this share of their mean are free ...
        at_least: ... and the smallest ones, however large, if those are fewer than this.
    """
    values, vectors = torch.linalg.eigh(gram)  # ascending, and for such a matrix the singular values
    free = int((values < threshold * values.mean()).sum())
    return vectors[:, : max(free, at_least)]


def change(keys: Tensor, residuals: Tensor, basis: Tensor, lamb: float, earlier: Tensor) -> tuple[Tensor, Tensor]:
    """Delta as factors `up` (d, n) and `down` (n, h).

    Args:
        keys: K1^T, (n, h), float64.
        residuals: R^T, (n, d).
        basis: U, (h, s), of the projector.
        lamb: the ridge.
        earlier: Kp^T, (m, h); none for the published edit.
    """
    inside = torch.cat([keys, earlier]) @ basis  # K^T U
    # Of K^T P K + lamb I, whose inverse is symmetric, only the rows of K1 meet a residual.
    chosen = torch.eye(len(inside), len(keys), dtype=torch.float64)
    return residuals.T, ridge(inside @ inside.T, chosen, lamb).T @ inside @ basis.T


def stored(parameter: str, delta: Tensor) -> WeightEdit:
    """The edit of one weight in float32: as factors of the rank that float32 resolves, where they are smaller."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    rank = int((values > torch.finfo(torch.float32).eps * values[0]).sum())
    if rank * sum(delta.shape) >= delta.numel():
        return WeightEdit(parameter, delta=delta.float())
    return WeightEdit(parameter, up=(left[:, :rank] * values[:rank]).float(), down=right[:rank].float())
