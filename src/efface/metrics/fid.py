"""FID: the Frechet distance between the normal distributions fitted to the features of two sets.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", arXiv 1706.08500;
https://github.com/bioinf-jku/TTUR. With means m, n and covariances S, T of the features

    FID = |m - n|^2 + tr S + tr T - 2 tr (S T)^(1/2)

The last trace is computed without a square root of the singular product: with centred, scaled features A and B, so that
S = A'A and T = B'B, it is the sum of the singular values of A B'. That is exact at any rank, and small for small sets.

FID is biased: fewer images give a larger distance. Compare only values for the same number of images; use 10,000 or
more for a comparison with a paper, and KID or CMMD for small sets.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efface.errors import BadFile, BadInput
from efface.metrics.base import Measured, MetricEntry
from efface.metrics.bootstrap import Array, shifted, weights
from efface.metrics.distance import interval_of_draws, measure_distance
from efface.metrics.features import Features
from efface.tensor_files import read_arrays

ENOUGH = 10_000
#: The note of a distance of fewer images.
BIASED = f"biased upwards: fewer than {ENOUGH:,} images"


def fid_statistic(x: Array, y: Array, w: Array, v: Array) -> Array:
    """FID of weighted sets.

    Args:
        x: Features of shape (n, d).
        y: Features of shape (m, d).
        w: The count of each x in each of B resamples, of shape (B, n).
        v: The count of each y in each resample, of shape (B, m).

    Returns:
        Distances of shape (B,).
    """
    return np.array([_frechet(x, y, p, q) for p, q in zip(w, v, strict=True)])


def fid(images: Features, reference: Features, draws: int = 200) -> Measured:
    """FID of two sets, with its interval. Warns if a set has fewer than 10,000 images.

    Args:
        images: The measured set.
        reference: The set that it is compared with.
        draws: Number of resamples of both sets.
    """
    fewest = min(len(images), len(reference))
    note = ""
    if fewest < ENOUGH:
        note = BIASED
        warnings.warn(
            f"FID of {fewest} images is biased upwards; compare it only at equal numbers, or use KID or CMMD.",
            stacklevel=2,
        )
    return measure_distance(fid_statistic, images, reference, draws, note, floor=0)


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean (d,) and covariance (d, d) of a set's features, as pytorch-fid stores them (`mu`, `sigma`)."""

    mean: Array
    covariance: Array

    @classmethod
    def load(cls, path: Path) -> FeatureStatistics:
        """Read an `.npz` file; pickled content is refused.

        Raises:
            BadFile: The file cannot be read, or has other content.
        """
        # Reference batches have thousands of images beside the statistics.
        arrays = read_arrays(path, "the statistics mu and sigma", ("mu", "sigma"))
        if missing := [name for name in ("mu", "sigma") if name not in arrays]:
            raise BadFile(f"Cannot read the statistics mu and sigma from {path}: it has no {missing[0]}.")
        mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
        if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
            raise BadFile(
                f"{path} has no mean (d,) and covariance (d, d) but shapes {mean.shape} and {covariance.shape}."
            )
        spread = np.abs(covariance).max()
        is_covariance = np.abs(covariance - covariance.T).max() <= 1e-3 * spread and np.diag(covariance).min() >= 0
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all() and is_covariance):
            raise BadFile(f"{path} has numbers that are not finite, or sigma is no covariance.")
        return cls(mean, covariance)


def fid_to_statistics(images: Features, reference: FeatureStatistics, draws: int = 200) -> Measured:
    """FID to a set of which only the statistics are stored, with its interval.

    Args:
        images: The measured set.
        reference: The statistics of the other set.
        draws: Number of resamples of the images.

    Raises:
        BadInput: The statistics are of another extractor, or too few images differ.
    """
    if images.values.shape[1] != len(reference.mean):
        raise BadInput(
            f"The statistics have {len(reference.mean)} features, '{images.extractor}' has {images.values.shape[1]}; "
            "use the extractor of the statistics."
        )
    values, vectors = np.linalg.eigh(reference.covariance)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    w = weights(images.prompts, len(images), draws, np.random.default_rng(0))
    distances = np.array([_distance(*_moments(images.values, p), reference.mean, root) for p in w])
    low, high = interval_of_draws(shifted(distances[0], distances[1:]), len(images))
    note = "against given statistics" + (f"; {BIASED}" if len(images) < ENOUGH else "")
    return Measured(float(distances[0]), max(low, 0), high, len(images), "score", images.extractor, note)


def _frechet(x: Array, y: Array, w: Array, v: Array) -> float:
    if min(w.sum(), v.sum()) < 2:  # a resample of fewer than two images has no covariance and is not used
        return np.nan
    return _distance(*_moments(x, w), *_moments(y, v))


def _distance(m: Array, A: Array, n: Array, B: Array) -> float:
    """The distance of two normal distributions with means m and n and covariances A'A and B'B."""
    product = np.linalg.svd(_shortest(A) @ _shortest(B).T, compute_uv=False).sum()
    # The exact value is at least 0; rounding errors must not make it negative.
    return max(float(((m - n) ** 2).sum() + (A**2).sum() + (B**2).sum() - 2 * product), 0.0)


def _moments(x: Array, w: Array) -> tuple[Array, Array]:
    """The mean, and A with A'A the unbiased covariance, of rows x with counts w."""
    x, w = x[w > 0], w[w > 0]
    n = w.sum()
    mean = w @ x / n
    return mean, np.sqrt(w / (n - 1))[:, None] * (x - mean)


def _shortest(A: Array) -> Array:
    """At most d rows with the same A'A: a rotation of the rows does not change the singular values."""
    return A if len(A) <= A.shape[1] else np.linalg.qr(A).R


ENTRY = MetricEntry(
    name="fid",
    summary="Frechet distance of features; biased below some 10,000 images",
    paper="https://arxiv.org/abs/1706.08500",
    over="two sets",
    better="lower",
    measure=fid,
)
