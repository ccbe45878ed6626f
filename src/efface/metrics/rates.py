"""Rates and their 95% intervals.

A rate is a share of images with some answer. Where the images are independent draws of one prompt, the interval is
Wilson's (1927, "Probable inference, the law of succession, and statistical inference"):

    centre = (p + z^2 / 2n) / (1 + z^2 / n),  half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

Where the images come from several prompts, images of one prompt are alike, so prompts are what is resampled: the
percentile bootstrap over clusters (Davison and Hinkley, 1997, section 3.8). It sees no spread where every image has
the same answer and would then claim certainty; there Wilson's interval over the number of prompts stands in.
All resampling uses a fixed seed: the same verdicts give the same interval to the bit.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from efface.metrics.bootstrap import Array, Cluster, percentiles, resampled_means

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
    p, z2 = successes / n, _Z**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At 0 and n successes the bound is exactly 0 or 1; rounding must not push it past the rate itself.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Rate(p, low, high, n)


def clustered_bootstrap(clusters: Sequence[Cluster]) -> Rate:
    """The mean outcome over all images, with an interval that resamples whole prompts.

    Args:
        clusters: One sequence of outcomes a prompt; empty ones are left out.
    """
    full = [c for c in clusters if len(c)]
    if not full:
        raise ValueError("a rate needs at least one image")
    counts = np.array([len(c) for c in full])
    total, n = math.fsum(math.fsum(c) for c in full), int(counts.sum())
    value = total / n
    if len(full) == 1 or total in (0.0, float(n)):
        # One prompt: independent draws. No spread: as many independent answers as there are prompts.
        trials = n if len(full) == 1 else len(full)
        plain = wilson(round(value * trials), trials)
        return Rate(value, plain.low, plain.high, n)
    low, high = percentiles(resampled_means(full, np.random.default_rng(0)))
    return Rate(value, low, high, n)


def harmonic_mean(parts: Sequence[Sequence[Cluster]]) -> Rate:
    """The harmonic mean of several rates (0 if one of them is 0), bootstrapped part by part.

    Args:
        parts: The clusters of each rate, as for `clustered_bootstrap`.
    """
    kept = [[c for c in part if len(c)] for part in parts]
    if not kept or not all(kept):
        raise ValueError("a harmonic mean needs at least one image in every part")
    rng = np.random.default_rng(0)
    values = np.array([clustered_bootstrap(part).value for part in kept])[None]
    draws = np.stack([resampled_means(part, rng) for part in kept], axis=1)
    low, high = percentiles(_harmonic(draws))
    return Rate(float(_harmonic(values)[0]), low, high, sum(len(c) for part in kept for c in part))


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
    flat = {d for c in changes for d in c}
    if flat == {0}:
        bound = wilson(0, len(changes)).high if len(changes) > 1 else wilson(0, n).high
        return Rate(0.0, -bound, bound, n)
    clusters = changes if len(changes) > 1 else [[d] for d in changes[0]]
    low, high = percentiles(resampled_means(clusters, np.random.default_rng(0)))
    return Rate(value, low, high, n)


def _harmonic(rates: Array) -> Array:
    """Harmonic means along the last axis; a rate of 0 makes it 0."""
    positive = (rates > 0).all(1)
    inverse = np.where(rates > 0, 1 / np.maximum(rates, 1e-300), 0).mean(1)
    return np.where(positive, 1 / np.maximum(inverse, 1e-300), 0.0)
