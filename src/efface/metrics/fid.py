"""FID: the Frechet distance of the normal distributions that two sets' features would have.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", arXiv 1706.08500;
https://github.com/bioinf-jku/TTUR. With means m, n and covariances S, T of the features

    FID = |m - n|^2 + tr S + tr T - 2 tr (S T)^(1/2)

The last trace is computed without a square root of the singular product: with centred, scaled features A and B, so that
S = A'A and T = B'B, it is the sum of the singular values of A B'. That is exact at any rank, and small for small sets.

FID is biased: fewer images give a larger distance. Compare values of the same number of images, of 10,000 or more if
they shall compare with a paper's, and read KID or CMMD for small sets.
"""

import warnings

import numpy as np

from efface.metrics.base import MetricEntry, Value
from efface.metrics.bootstrap import Array
from efface.metrics.distance import measure
from efface.metrics.features import Features

ENOUGH = 10_000


def statistic(x: Array, y: Array, w: Array, v: Array) -> Array:
    """FID of weighted sets; see `Statistic`."""
    return np.array([_frechet(x, y, p, q) for p, q in zip(w, v, strict=True)])


def fid(images: Features, reference: Features, draws: int = 200) -> Value:
    """FID of two sets, with an interval from `draws` resamples of both. Warns of sets that are small."""
    fewest = min(len(images), len(reference))
    note = ""
    if fewest < ENOUGH:
        note = f"biased upwards: fewer than {ENOUGH:,} images"
        warnings.warn(
            f"FID of {fewest} images is biased upwards; compare it only at equal numbers, or use KID or CMMD.",
            stacklevel=2,
        )
    return measure(statistic, images, reference, draws, note, floor=0)


def _frechet(x: Array, y: Array, w: Array, v: Array) -> float:
    (m, A), (n, B) = _moments(x, w), _moments(y, v)
    product = np.linalg.svd(_shortest(A) @ _shortest(B).T, compute_uv=False).sum()
    # The exact value is at least 0; rounding must not push it below.
    return max(float(((m - n) ** 2).sum() + (A**2).sum() + (B**2).sum() - 2 * product), 0.0)


def _moments(x: Array, w: Array) -> tuple[Array, Array]:
    """The mean, and A with A'A the unbiased covariance, of rows that occur as often as `w` says."""
    x, w = x[w > 0], w[w > 0]
    n = w.sum()
    mean = w @ x / n
    return mean, np.sqrt(w / (n - 1))[:, None] * (x - mean)


def _shortest(A: Array) -> Array:
    """At most d rows with the same A'A; another rotation of the rows leaves the singular values as they are."""
    return A if len(A) <= A.shape[1] else np.linalg.qr(A).R


ENTRY = MetricEntry(
    name="fid",
    summary="Frechet distance of features; biased below some 10,000 images",
    paper="https://arxiv.org/abs/1706.08500",
    over="two sets",
    better="lower",
    measure=fid,
)
