"""Distances between two sets of images: the value, its interval from resampling both sets, and MMD.

The squared maximum mean discrepancy of weighted sets, for the metrics that differ in their kernel k (Gretton et al., "A
Kernel Two-Sample Test", JMLR 13, 2012):

    MMD^2 = sum_ij w_i w_j k(x_i, x_j) / W_xx + sum_ij v_i v_j k(y_i, y_j) / W_yy - 2 sum_ij w_i v_j k(x_i, y_j) / W_xy

where every W is the sum of its weights. The unbiased estimator leaves out the pairs of an image with itself; in a
resample, this applies to all copies of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from efface.errors import BadInput, NoInterval
from efface.metrics.base import Measured
from efface.metrics.bootstrap import Array, Statistic, percentiles, shifted, weights
from efface.metrics.features import Features

#: The kernel: rows a (n, d) and b (m, d) to values (n, m).
Kernel = Callable[[Array, Array], Array]
_ROWS = 1024


def measure_distance(
    statistic: Statistic,
    images: Features,
    reference: Features,
    draws: int,
    note: str = "",
    floor: float = -math.inf,
) -> Measured:
    """The distance of `images` from `reference`, with its interval.

    Args:
        statistic: The distance.
        images: The measured set.
        reference: The set that it is compared with.
        draws: Number of resamples; each costs as much as the distance itself.
        note: A remark for the result.
        floor: The lowest possible distance.

    Raises:
        NoInterval: Too few images differ.
        BadInput: The sets come from different extractors, or there are too few draws.
    """
    w, v = resamples(images, reference, draws)
    # Equal sets that are resampled together have no spread, and are resampled independently.
    for v_used in (v, resample(reference, draws, seed=1)):
        values = statistic(images.values, reference.values, w, v_used)
        resampled = shifted(values[0], values[1:])
        if draws_differ(resampled):
            break
    low, high = interval_of_draws(resampled, len(images))
    note = f"against {len(reference)} images{'; ' if note else ''}{note}"
    return Measured(float(values[0]), max(low, floor), high, len(images), "score", images.extractor, note)


def resamples(images: Features, reference: Features, draws: int) -> tuple[Array, Array]:
    """Draw resampling weights of both sets.

    Sets of the same prompts are resampled together, so that the effect of a prompt on both cancels.

    Args:
        images: The n images of the measured set.
        reference: The m images of the other set.
        draws: Number of resamples.

    Returns:
        Weights of shapes (1 + draws, n) and (1 + draws, m), with ones in the first row.

    Raises:
        BadInput: The sets come from different extractors, or there are too few draws.
    """
    check_same_extractor(images, reference)
    if draws < 20:
        raise BadInput(f"An interval needs at least 20 draws, not {draws}.")
    prompts = set(images.prompts or ())
    together = len(prompts) > 1 and prompts == set(reference.prompts or ())
    return resample(images, draws, seed=0), resample(reference, draws, seed=0 if together else 1)


def check_same_extractor(images: Features, reference: Features) -> None:
    """Check that two sets can be compared.

    Raises:
        BadInput: They come from different extractors.
    """
    if images.extractor != reference.extractor:
        raise BadInput(
            f"Features of '{images.extractor}' and of '{reference.extractor}' have no distance: "
            "extract both sets with one extractor."
        )


def resample(images: Features, draws: int, seed: int) -> Array:
    """Resampling weights (1 + draws, n) of one set, with ones in the first row.

    Args:
        images: The n images.
        draws: Number of resamples.
        seed: The seed of the random generator.
    """
    return weights(images.prompts, len(images), draws, np.random.default_rng(seed))


def draws_differ(draws: Array) -> bool:
    """Whether resampled distances (n,) differ."""
    return len(draws) > 1 and float(np.ptp(draws)) > 1e-12 * float(np.abs(draws).max())


def interval_of_draws(draws: Array, images: int) -> tuple[float, float]:
    """The interval of resampled distances (n,).

    Args:
        draws: The distances.
        images: Number of images of the set.

    Raises:
        NoInterval: The distances do not differ, so that an interval would claim certainty.
    """
    if not draws_differ(draws):
        raise NoInterval(f"A distance of {images} images has no interval, as too few of them differ: use more images.")
    return percentiles(draws)


def terms(kernel: Kernel, x: Array, y: Array, w: Array, v: Array, unbiased: bool) -> Array:
    """Numerators and denominators of the three means in MMD^2, which add up over subsets.

    Args:
        kernel: The kernel.
        x: Features of shape (n, d).
        y: Features of shape (m, d).
        w: The count of each x in each of B resamples, of shape (B, n).
        v: The count of each y in each resample, of shape (B, m).
        unbiased: Whether to leave out the pairs of an image with itself.

    Returns:
        Sums of shape (3, 2, B): for xx, yy and xy the numerator and the denominator.
    """
    return np.array(
        [
            _mean(kernel, x, x, w, w, distinct=unbiased),
            _mean(kernel, y, y, v, v, distinct=unbiased),
            _mean(kernel, x, y, w, v, distinct=False),
        ]
    )


def discrepancy(parts: Array) -> Array:
    """MMD^2 of each resample, of shape (B,), from the sums (3, 2, B) of `terms`."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample of a single image has no pairs and is not used
        xx, yy, xy = parts[:, 0] / parts[:, 1]
    return xx + yy - 2 * xy


def _mean(kernel: Kernel, a: Array, b: Array, w: Array, v: Array, distinct: bool) -> NDArray[np.float64]:
    """sum_ij w_i v_j k(a_i, b_j) and sum_ij w_i v_j, of shape (2, B), computed in blocks of rows."""
    numerator = np.zeros(len(w))
    for start in range(0, len(a), _ROWS):
        block = kernel(a[start : start + _ROWS], b)
        if distinct:
            rows = np.arange(len(block))
            block[rows, start + rows] = 0
        numerator += ((w[:, start : start + _ROWS] @ block) * v).sum(1)
    denominator = w.sum(1) * v.sum(1) - ((w * v).sum(1) if distinct else 0)
    return np.stack([numerator, denominator])
