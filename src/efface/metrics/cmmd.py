"""CMMD: the maximum mean discrepancy of CLIP features under a Gaussian kernel, which assumes no normality.

Jayasumana et al., "Rethinking FID: Towards a Better Evaluation Metric for Image Generation", arXiv 2401.09603;
https://github.com/google-research/google-research/tree/master/cmmd:

    CMMD = 1000 MMD^2,  k(x, y) = exp(-|x - y|^2 / (2 sigma^2)),  sigma = 10,  |x| = |y| = 1

with the biased estimator, as in the reference: the pairs of an image with itself count, so CMMD(x, x) = 0. Published
values use `clip:openai/clip-vit-large-patch14-336`. Any extractor works here; results name its version.
"""

from __future__ import annotations

import numpy as np

from efface.metrics.base import Measured, MetricEntry
from efface.metrics.bootstrap import Array
from efface.metrics.distance import discrepancy, measure_distance, terms
from efface.metrics.features import Features

SIGMA, SCALE = 10.0, 1000.0


def cmmd_statistic(x: Array, y: Array, w: Array, v: Array) -> Array:
    """CMMD of weighted sets.

    Args:
        x: Features of shape (n, d).
        y: Features of shape (m, d).
        w: The count of each x in each of B resamples, of shape (B, n).
        v: The count of each y in each resample, of shape (B, m).

    Returns:
        Distances of shape (B,).
    """
    parts = terms(_gaussian, _unit(x), _unit(y), w, v, unbiased=False)
    # The exact value is a squared norm; rounding errors must not make it negative.
    return SCALE * np.maximum(discrepancy(parts), 0)


def cmmd(images: Features, reference: Features, draws: int = 500) -> Measured:
    """CMMD of two sets, with its interval.

    Args:
        images: The measured set.
        reference: The set that it is compared with.
        draws: Number of resamples of both sets.
    """
    return measure_distance(cmmd_statistic, images, reference, draws, floor=0)


def _unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _gaussian(a: Array, b: Array) -> Array:
    """The kernel k for unit vectors, for which |a - b|^2 = 2 - 2 a.b."""
    return np.exp((a @ b.T - 1) / SIGMA**2)


ENTRY = MetricEntry(
    name="cmmd",
    summary="maximum mean discrepancy of CLIP features, Gaussian kernel; good for small sets",
    paper="https://arxiv.org/abs/2401.09603",
    over="two sets",
    better="lower",
    measure=cmmd,
)
