"""Resampling, always with a fixed seed: the same images give the same interval to the bit.

Means resample whole prompts (Davison and Hinkley, 1997, section 3.8). Distances between sets resample their images as
weights, so that features are extracted once: a resample in which image i occurs w_i times is the weight vector w.
Repeated images raise FID and every V-statistic by the bias of small sets a second time, so that plain percentiles can
lie above the value itself; `shifted` therefore shifts the resampled distances until their mean is the value. The
interval then covers the distance expected of sets of this size, which is the only distance that can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from efface.errors import BadInput
from efface.metrics.base import Measured

#: The 97.5% quantile of the normal distribution.
Z = 1.959963984540054
#: Number of resamples of a mean.
DRAWS = 2000

Array = NDArray[np.float64]

#: The outcomes or scores of the images of one prompt.
Cluster = Sequence[float]


def resampled_means(clusters: Sequence[Cluster], rng: np.random.Generator) -> Array:
    """Means of `DRAWS` resamples of whole clusters, (DRAWS,)."""
    sums = np.array([math.fsum(c) for c in clusters])
    counts = np.array([len(c) for c in clusters])
    chosen = rng.integers(0, len(clusters), (DRAWS, len(clusters)))
    return sums[chosen].sum(1) / counts[chosen].sum(1)


def percentiles(draws: Array) -> tuple[float, float]:
    """The middle 95% of the draws (n,)."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def shifted(value: float, draws: Array) -> Array:
    """The finite draws of (n,), shifted so that their mean is the value.

    A draw is not finite if its resample has too few different images for a distance.
    """
    usable = draws[np.isfinite(draws)]
    return usable - usable.mean() + value


def all_alike(clusters: Sequence[Cluster]) -> bool:
    """Whether all clusters have the same mean, so that resampling them has no spread."""
    return len({math.fsum(c) / len(c) for c in clusters}) == 1


def interval_of_mean(clusters: Sequence[Cluster], value: float) -> tuple[float, float]:
    """The interval of the mean over resampled units, which is never of width 0.

    If all units have the same mean, resampling has no spread. Of n units without an exception, Wilson's upper bound of
    the share of exceptions is z^2 / (n + z^2). An exception is taken to differ by the value itself, at least by 1: one
    event in a count.

    Args:
        clusters: The units: prompts, or the images of the only prompt.
        value: The mean.
    """
    low, high = percentiles(resampled_means(clusters, np.random.default_rng(0)))
    scale = max(1.0, abs(value))
    if high - low < 1e-9 * scale:
        reach = scale * Z**2 / (len(clusters) + Z**2)
        return value - reach, value + reach
    return min(low, value), max(high, value)


def by_prompt(values: Sequence[float], prompts: Sequence[str] | None) -> list[list[float]]:
    """Values in one cluster for each prompt; without prompts, one cluster of independent images.

    Raises:
        BadInput: The number of prompts differs from the number of values.
    """
    if prompts is None:
        return [list(values)]
    if len(prompts) != len(values):
        raise BadInput(f"{len(values)} images came with {len(prompts)} prompts; give one prompt for each image.")
    clusters: dict[str, list[float]] = {prompt: [] for prompt in prompts}
    for value, prompt in zip(values, prompts, strict=True):
        clusters[prompt].append(value)
    return list(clusters.values())


def units(clusters: Sequence[Cluster]) -> Sequence[Cluster]:
    """The units to resample: prompts, or the images of the only prompt."""
    full = [c for c in clusters if len(c)]
    return full if len(full) != 1 else [[value] for value in full[0]]


def mean_with_interval(clusters: Sequence[Cluster], extractor: str, note: str = "") -> Measured:
    """The mean score over all images, with an interval that resamples whole prompts.

    Args:
        clusters: One sequence of scores for each prompt.
        extractor: The version of what made the features.
        note: A remark to show beside the number.

    Raises:
        BadInput: There are fewer than two images, which have no interval.
    """
    resampled = units(clusters)
    n = sum(len(c) for c in resampled)
    if n < 2:
        raise BadInput(f"A mean with an interval needs at least two images; there is {n or 'none'}.")
    value = math.fsum(math.fsum(c) for c in resampled) / n
    low, high = interval_of_mean(resampled, value)
    if value >= 0:
        low = max(low, min(0.0, *(min(c) for c in resampled)))  # a score that is never negative has no negative mean
    return Measured(value, low, high, n, "score", extractor, note)


def weights(labels: Sequence[str] | None, n: int, draws: int, rng: np.random.Generator) -> Array:
    """How often each of n images occurs, (1 + draws, n): once in the first row, then in resamples.

    Args:
        labels: The prompt of each image, to resample whole prompts; None resamples images.
        n: Number of images.
        draws: Number of resamples.
        rng: The random generator.
    """
    group_of = np.arange(n)
    if labels is not None and len(set(labels)) > 1:
        order = {label: i for i, label in enumerate(sorted(set(labels)))}
        group_of = np.array([order[label] for label in labels])
    groups = int(group_of.max()) + 1
    counts = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)
    return np.concatenate([np.ones((1, n)), counts[:, group_of].astype(np.float64)])


#: Distances, (B,), of sets x (n, d) and y (m, d) with weights (B, n) and (B, m): how often each image occurs.
Statistic = Callable[[Array, Array, Array, Array], Array]
