"""Rates and their 95% intervals.

A rate is a share of images with some answer. Where the images are independent draws of one prompt, the interval is
Wilson's (1927, "Probable inference, the law of succession, and statistical inference"):

    centre = (p + z^2 / 2n) / (1 + z^2 / n),  half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

Where the images come from several prompts, images of one prompt are alike, so prompts are what is resampled: the
percentile bootstrap over clusters (Davison and Hinkley, 1997, section 3.8). It sees no spread where all prompts have
the same rate and would then claim certainty; there Wilson's interval over the number of prompts stands in.
All resampling uses a fixed seed: the same verdicts give the same interval to the bit.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from efface.metrics.bootstrap import DRAWS, Array, Cluster, percentiles, resampled_means, units

_Z = 1.959963984540054  # the 97.5% quantile of the normal distribution


@dataclass(frozen=True)
class Rate:
    """A rate, or a difference of rates, its 95% interval and the number of images it is over."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """What the JSON answers carry."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}], n={self.n}"


def wilson(successes: int, n: int) -> Rate:
    """The rate of `successes` in `n` independent draws with Wilson's score interval."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a rate needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    p = successes / n
    low, high = _bounds(p, n, np.array([-_Z, _Z])).tolist()
    # At 0 and n successes the bound is exactly 0 or 1; rounding must not push it past the rate itself.
    return Rate(p, 0.0 if successes == 0 else low, 1.0 if successes == n else high, n)


def clustered_bootstrap(clusters: Sequence[Cluster]) -> Rate:
    """The mean outcome over all images, with an interval that resamples whole prompts.

    Args:
        clusters: One sequence of outcomes a prompt; empty ones are left out.
    """
    full = [c for c in clusters if len(c)]
    if not full:
        raise ValueError("a rate needs at least one image")
    counts = np.array([len(c) for c in full])
    n = int(counts.sum())
    value = math.fsum(math.fsum(c) for c in full) / n
    if trials := _trials(full):
        plain = wilson(round(value * trials), trials)
        return Rate(value, plain.low, plain.high, n)
    low, high = percentiles(resampled_means(full, np.random.default_rng(0)))
    return Rate(value, low, high, n)


def harmonic_mean(parts: Sequence[Sequence[Cluster]]) -> Rate:
    """The harmonic mean of several rates (0 if one of them is 0), drawn part by part.

    A part is resampled by prompt. Where its own interval is Wilson's instead (see `clustered_bootstrap`), it is drawn
    from the confidence distribution of that interval: the bound at a standard normal z, below the rate for z < 0 and
    above it for z > 0, so that the middle 95% of the draws are Wilson's interval and the median is the rate.

    Args:
        parts: The clusters of each rate, as for `clustered_bootstrap`.
    """
    kept = [[c for c in part if len(c)] for part in parts]
    if not kept or not all(kept):
        raise ValueError("a harmonic mean needs at least one image in every part")
    rng = np.random.default_rng(0)
    values = [clustered_bootstrap(part).value for part in kept]
    draws = np.stack([_draws(part, p, rng) for part, p in zip(kept, values, strict=True)], axis=1)
    value = float(_harmonic(np.array([values]))[0])
    low, high = percentiles(_harmonic(draws))
    # Of many parts at 1 hardly any draw has all at 1.
    return Rate(value, min(low, value), max(high, value), sum(len(c) for part in kept for c in part))


def paired_difference(before: Sequence[Cluster], after: Sequence[Cluster]) -> Rate:
    """`after` minus `before` over images that share prompt and seed: noise that both share cancels.

    Args:
        before: Outcomes a prompt.
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
    if _alike(clusters):
        bound = wilson(0, len(clusters)).high
        return Rate(value, max(value - bound, -1.0), min(value + bound, 1.0), n)
    low, high = percentiles(resampled_means(clusters, np.random.default_rng(0)))
    return Rate(value, low, high, n)


def _bounds(p: float, n: int, z: Array) -> Array:
    """Wilson's bounds of a rate over n draws: the lower ones for z < 0, the upper ones for z > 0."""
    z2 = z**2
    return (p + z2 / (2 * n)) / (1 + z2 / n) + z / (1 + z2 / n) * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))


def _alike(clusters: Sequence[Cluster]) -> bool:
    """Whether resampling whole clusters would see no spread."""
    return len({math.fsum(c) / len(c) for c in clusters}) == 1


def _trials(clusters: Sequence[Cluster]) -> int:
    """The independent draws behind Wilson's interval, where it stands in for the bootstrap; else 0.

    An only prompt's images are independent draws; prompts that are all alike are as many as there are prompts.
    """
    return len(units(clusters)) if _alike(clusters) else 0


def _draws(clusters: Sequence[Cluster], p: float, rng: np.random.Generator) -> Array:
    """Draws of a rate, here p, as its interval has it."""
    if trials := _trials(clusters):
        return np.clip(_bounds(p, trials, rng.standard_normal(DRAWS)), 0, 1)
    return resampled_means(clusters, rng)


def _harmonic(rates: Array) -> Array:
    """Harmonic means along the last axis; a rate of 0 makes it 0."""
    positive = (rates > 0).all(1)
    inverse = np.where(rates > 0, 1 / np.maximum(rates, 1e-300), 0).mean(1)
    return np.where(positive, 1 / np.maximum(inverse, 1e-300), 0.0)
