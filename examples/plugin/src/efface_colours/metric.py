"""A metric: the distance between the means of two sets of features.

|sum_i w_i x_i / sum_i w_i  -  sum_j v_j y_j / sum_j v_j|,   w and v how often a resample draws each image
"""

from __future__ import annotations

import numpy as np

from efface.metrics.base import Measured, MetricEntry
from efface.metrics.bootstrap import Array
from efface.metrics.distance import measure_distance
from efface.metrics.features import Features


def statistic(x: Array, y: Array, w: Array, v: Array) -> Array:
    """The distance of each of B resamples, (B,), of features (n, d) and (m, d) with weights (B, n) and (B, m)."""
    means = w @ x / w.sum(axis=1, keepdims=True), v @ y / v.sum(axis=1, keepdims=True)
    return np.linalg.norm(means[0] - means[1], axis=1)


def mean_shift(images: Features, reference: Features) -> Measured:
    """The distance between two sets, with an interval from 200 resamples of both."""
    return measure_distance(statistic, images, reference, draws=200, floor=0)


ENTRY = MetricEntry(
    name="mean_shift",
    summary="distance between the means of two sets of features",
    paper="https://en.wikipedia.org/wiki/Euclidean_distance",
    over="two sets",
    better="lower",
    measure=mean_shift,
)
