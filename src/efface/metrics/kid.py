"""KID: the maximum mean discrepancy of features under a cubic kernel, unbiased at any number of images.

Binkowski et al., "Demystifying MMD GANs", arXiv 1801.01401; https://github.com/mbinkowski/MMD-GAN. With d features

    KID = MMD^2 (unbiased),  k(x, y) = (x.y / d + 1)^3

as in torchmetrics and clean-fid: the mean over 100 random subsets of 1000 images of each set. Sets that fit into one
subset are used as a whole, which is the limit of the mean over their subsets.
"""

from __future__ import annotations

import numpy as np

from efface.errors import BadInput
from efface.metrics.base import Measured, MetricEntry
from efface.metrics.bootstrap import Array, Statistic
from efface.metrics.distance import discrepancy, measure_distance, terms
from efface.metrics.features import Features

SUBSETS, SUBSET_SIZE = 100, 1000


def kid_statistic(subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE) -> Statistic:
    """Make the statistic of KID: a function of weighted sets (see `efface.metrics.bootstrap.Statistic`).

    Args:
        subsets: Number of subsets, if a set is larger than one.
        subset_size: Images per subset.

    Raises:
        BadInput: There is no subset, or a subset has fewer than 2 images.
    """
    if subsets < 1 or subset_size < 2:
        raise BadInput(f"KID needs at least one subset of at least 2 images, not {subsets} of {subset_size}.")

    def kid_of(x: Array, y: Array, w: Array, v: Array) -> Array:
        if max(len(x), len(y)) <= subset_size:
            return discrepancy(terms(_cubic, x, y, w, v, unbiased=True))
        size, rng = min(subset_size, len(x), len(y)), np.random.default_rng(0)
        total = np.zeros((3, 2, len(w)))
        for _ in range(subsets):
            i = rng.choice(len(x), size, replace=False)
            j = rng.choice(len(y), size, replace=False)
            total += terms(_cubic, x[i], y[j], w[:, i], v[:, j], unbiased=True)
        return discrepancy(total)

    return kid_of


def kid(
    images: Features,
    reference: Features,
    draws: int = 500,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
) -> Measured:
    """KID of two sets, with its interval. The value may be negative for equal distributions.

    Args:
        images: The measured set.
        reference: The set that it is compared with.
        draws: Number of resamples of both sets.
        subsets: Number of subsets, if a set is larger than one.
        subset_size: Images per subset; at most as many as the smaller set has.
    """
    one_subset = max(len(images), len(reference)) <= subset_size
    size = min(subset_size, len(images), len(reference))
    note = "whole sets" if one_subset else f"{subsets} subsets of {size}"
    return measure_distance(kid_statistic(subsets, subset_size), images, reference, draws, note)


def _cubic(a: Array, b: Array) -> Array:
    return (a @ b.T / a.shape[1] + 1) ** 3


ENTRY = MetricEntry(
    name="kid",
    summary="maximum mean discrepancy of features, cubic kernel; unbiased for small sets",
    paper="https://arxiv.org/abs/1801.01401",
    over="two sets",
    better="lower",
    measure=kid,
)
