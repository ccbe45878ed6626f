"""Distances between two sets of images: the value, and its interval from resampling both sets."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from efface.errors import BadInput
from efface.metrics.base import Measured
from efface.metrics.bootstrap import Array, Statistic, percentiles, shifted, weights
from efface.metrics.features import Features


def measure(
    statistic: Statistic,
    images: Features,
    reference: Features,
    draws: int,
    note: str = "",
    floor: float = -math.inf,
) -> Measured:
    """The distance of `images` from `reference`.

    Args:
        statistic: Which distance.
        images: The set that is measured.
        reference: What it is measured against.
        draws: How many resamples; each costs as much as the distance itself.
        note: What else has to be said.
        floor: What the distance cannot be below.

    Raises:
        BadInput: The sets come from different extractors, or there are too few draws.
    """
    values = statistic(images.values, reference.values, *resamples(images, reference, draws))
    low, high = percentiles(shifted(values[0], values[1:]))
    note = f"against {len(reference)} images{'; ' if note else ''}{note}"
    return Measured(float(values[0]), max(low, floor), high, len(images), "score", images.extractor, note)


def resamples(images: Features, reference: Features, draws: int) -> tuple[Array, Array]:
    """Weights of both sets, (1 + draws, n) and (1 + draws, m), the first row of ones.

    Sets made from the same prompts are resampled together, so that what a prompt does to both cancels.

    Raises:
        BadInput: The sets come from different extractors, or there are too few draws.
    """
    if images.extractor != reference.extractor:
        raise BadInput(
            f"Features of '{images.extractor}' and of '{reference.extractor}' have no distance: "
            "extract both sets with one extractor."
        )
    if draws < 20:
        raise BadInput(f"An interval needs at least 20 draws, not {draws}.")
    prompts = set(images.prompts or ())
    together = len(prompts) > 1 and prompts == set(reference.prompts or ())
    w = weights(images.prompts, len(images), draws, np.random.default_rng(0))
    v = weights(reference.prompts, len(reference), draws, np.random.default_rng(0 if together else 1))
    return w, v


# The squared maximum mean discrepancy of weighted sets, for the metrics that differ in their kernel.
#
# Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012):
#
#     MMD^2 = sum_ij w_i w_j k(x_i, x_j) / W_xx + sum_ij v_i v_j k(y_i, y_j) / W_yy - 2 sum_ij w_i v_j k(x_i, y_j) /
# W_xy
#
# where every W is the sum of its weights. The unbiased estimator leaves out the pairs of an image with itself, which
# in a
# resample holds for all its copies.


#: k of rows a (n, d) and b (m, d), (n, m).
Kernel = Callable[[Array, Array], Array]

_ROWS = 1024


def terms(kernel: Kernel, x: Array, y: Array, w: Array, v: Array, unbiased: bool) -> Array:
    """Numerators and denominators of the three means, (3, 2, B), which add up over subsets.

    Args:
        kernel: The kernel.
        x: (n, d).
        y: (m, d).
        w: How often each x occurs in each of B resamples, (B, n).
        v: How often each y occurs, (B, m).
        unbiased: Leave out the pairs of an image with itself.
    """
    return np.array(
        [
            _mean(kernel, x, x, w, w, distinct=unbiased),
            _mean(kernel, y, y, v, v, distinct=unbiased),
            _mean(kernel, x, y, w, v, distinct=False),
        ]
    )


def discrepancy(parts: Array) -> Array:
    """MMD^2 of each resample, (B,), of the sums (3, 2, B) of `terms`."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample of one image only has no pairs; it is not used
        xx, yy, xy = parts[:, 0] / parts[:, 1]
    return xx + yy - 2 * xy


def _mean(kernel: Kernel, a: Array, b: Array, w: Array, v: Array, distinct: bool) -> NDArray[np.float64]:
    """sum_ij w_i v_j k(a_i, b_j) and sum_ij w_i v_j, (2, B), a block of rows at a time."""
    numerator = np.zeros(len(w))
    for start in range(0, len(a), _ROWS):
        block = kernel(a[start : start + _ROWS], b)
        if distinct:
            rows = np.arange(len(block))
            block[rows, start + rows] = 0
        numerator += ((w[:, start : start + _ROWS] @ block) * v).sum(1)
    denominator = w.sum(1) * v.sum(1) - ((w * v).sum(1) if distinct else 0)
    return np.stack([numerator, denominator])
