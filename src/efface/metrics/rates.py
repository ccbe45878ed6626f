"""Rates with their 95% intervals: the one place where it is computed (`bootstrap` resamples for it).

A rate is a share of images that have some answer. `rate_with_interval` takes the answers prompt by prompt.

Where the images are independent draws of one prompt, the interval is Wilson's (1927, "Probable inference, the law of
succession, and statistical inference"):

    centre = (p + z^2 / 2n) / (1 + z^2 / n),  half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

Where the images come from several prompts, images of one prompt are correlated, so whole prompts are resampled: the
percentile bootstrap over clusters (Davison and Hinkley, 1997, section 3.8). It has no spread if all prompts have the
same rate, and would then claim certainty; Wilson's interval over the number of prompts replaces it there.

All resampling uses a fixed seed: the same verdicts give the same interval to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from efface.metrics.base import Measured
from efface.metrics.bootstrap import DRAWS, Array, Cluster, Z, all_alike, percentiles, resampled_means, units


def rate_with_interval(clusters: Sequence[Cluster]) -> Measured:
    """The mean outcome over all images: Wilson's interval or the bootstrap over prompts (see the module docstring).

    Args:
        clusters: One sequence of outcomes for each prompt; empty ones are ignored.
    """
    full = [c for c in clusters if len(c)]
    if not full:
        raise ValueError("a rate needs at least one image")
    counts = np.array([len(c) for c in full])
    n = int(counts.sum())
    value = math.fsum(math.fsum(c) for c in full) / n
    if trials := _independent_trials(full):
        return Measured(value, *wilson_interval(value, trials), n)
    low, high = percentiles(resampled_means(full, np.random.default_rng(0)))
    return Measured(value, low, high, n)


def wilson(successes: int, n: int) -> Measured:
    """The rate of `successes` in `n` independent draws with Wilson's score interval."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a rate needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    return Measured(successes / n, *wilson_interval(successes / n, n), n)


def harmonic_mean(parts: Sequence[Sequence[Cluster]]) -> Measured:
    """The harmonic mean of several rates (0 if one of them is 0), resampled part by part.

    A part is resampled by prompt. Where its own interval is Wilson's (see `rate_with_interval`), the part is drawn from
    the confidence distribution of that interval: the bound at a standard normal z, below the rate for z < 0 and above
    it for z > 0. The middle 95% of these draws are Wilson's interval, and their median is the rate.

    Args:
        parts: The clusters of each rate, as for `rate_with_interval`.
    """
    full = [[c for c in part if len(c)] for part in parts]
    if not full or not all(full):
        raise ValueError("a harmonic mean needs at least one image in every part")
    rng = np.random.default_rng(0)
    values = [rate_with_interval(part).value for part in full]
    draws = np.stack([_draws(part, p, rng) for part, p in zip(full, values, strict=True)], axis=1)
    value = float(_harmonic(np.array([values]))[0])
    low, high = percentiles(_harmonic(draws))
    # With many parts at 1, hardly any draw has all parts at 1.
    return Measured(value, min(low, value), max(high, value), sum(len(c) for part in full for c in part))


def paired_difference(before: Sequence[Cluster], after: Sequence[Cluster]) -> Measured:
    """`after` minus `before` over images that share prompt and seed, so that noise that both share cancels.

    Args:
        before: Outcomes of each prompt.
        after: Outcomes of the same prompts and seeds, in the same order.
    """
    changes = [
        [b - a for a, b in zip(x, y, strict=True)] for x, y in zip(before, after, strict=True) if len(x) or len(y)
    ]
    if not changes:
        raise ValueError("a difference needs at least one pair of images")
    n = sum(map(len, changes))
    value = math.fsum(math.fsum(c) for c in changes) / n
    clusters = units(changes)
    if all_alike(clusters):
        bound = wilson(0, len(clusters)).high
        return Measured(value, max(value - bound, -1.0), min(value + bound, 1.0), n)
    low, high = percentiles(resampled_means(clusters, np.random.default_rng(0)))
    return Measured(value, low, high, n)


def wilson_interval(p: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval of a rate.

    Args:
        p: The rate.
        n: The number of draws. Neither n nor n p need be whole, as prompts with equal rates are draws.
    """
    low, high = _wilson_bounds(p, n, np.array([-Z, Z])).tolist()
    # At rates of 0 and 1 the bound is exactly 0 or 1; rounding must not push it past the rate itself.
    return 0.0 if p == 0 else low, 1.0 if p == 1 else high


def _wilson_bounds(p: float, n: float, z: Array) -> Array:
    """Wilson's bounds of a rate over n draws: lower bounds for z < 0, upper bounds for z > 0."""
    z2 = z**2
    return (p + z2 / (2 * n)) / (1 + z2 / n) + z / (1 + z2 / n) * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))


def _independent_trials(clusters: Sequence[Cluster]) -> int:
    """The number of independent draws for Wilson's interval; 0 if the bootstrap applies.

    The images of a single prompt are independent draws. Several prompts with equal rates count as one draw each.
    """
    return len(units(clusters)) if all_alike(clusters) else 0


def _draws(clusters: Sequence[Cluster], p: float, rng: np.random.Generator) -> Array:
    """Draws of a rate p from the distribution behind its interval."""
    if trials := _independent_trials(clusters):
        return np.clip(_wilson_bounds(p, trials, rng.standard_normal(DRAWS)), 0, 1)
    return resampled_means(clusters, rng)


def _harmonic(rates: Array) -> Array:
    """Harmonic means along the last axis; a rate of 0 gives 0."""
    positive = (rates > 0).all(1)
    inverse = np.where(rates > 0, 1 / np.maximum(rates, 1e-300), 0).mean(1)
    return np.where(positive, 1 / np.maximum(inverse, 1e-300), 0.0)
