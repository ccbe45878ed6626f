"""Tests between two erasers on the same prompts and seeds: is one better, or is it chance?

Rates: McNemar's exact test (1947). Of the pairs with different outcomes, b went one way and c the other; were both
erasers alike, b would be binomial (b + c, 1/2), so

    p = min(1, 2 P[X <= min(b, c)])

It takes pairs as independent, which images of one prompt are not: with few prompts and many images of each, read the
interval, which resamples prompts. Scores and distances: the paired bootstrap (Efron and Tibshirani, 1993, chapter 16),
with p twice the share of resampled differences on the other side of zero.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from efface.errors import BadInput
from efface.metrics.bootstrap import Array, Cluster, Statistic, percentiles, resampled_means, shifted, units
from efface.metrics.distance import resamples
from efface.metrics.features import Features
from efface.metrics.rates import paired_difference

_UNPAIRED = "A paired test needs the same prompts and seeds in the same order for both."


@dataclass(frozen=True)
class Comparison:
    """The second of two erasers minus the first.

    Attributes:
        value: The difference.
        low: Lower end of its 95% interval.
        high: Upper end.
        n: Pairs of images.
        p: Chance of a difference at least as large between erasers that are alike.
        test: Which test.
    """

    value: float
    low: float
    high: float
    n: int
    p: float
    test: str

    def as_dict(self) -> dict[str, Any]:
        """What JSON carries."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:+.4g} [{self.low:+.4g}, {self.high:+.4g}], p={self.p:.3g}, n={self.n}, {self.test}"


def mcnemar(first: Sequence[Cluster], second: Sequence[Cluster]) -> Comparison:
    """Compare two rates.

    Args:
        first: Outcomes (0 or 1) of the one, a sequence a prompt.
        second: Outcomes of the other for the same prompts and seeds, in the same order.
    """
    pairs = [pair for one, other in _paired(first, second) for pair in zip(one, other, strict=True)]
    if any(outcome not in (0, 1) for pair in pairs for outcome in pair):
        raise BadInput("McNemar's test is for outcomes of 0 and 1; compare scores with paired_scores.")
    gained, lost = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    rate = paired_difference(first, second)
    return Comparison(rate.value, rate.low, rate.high, rate.n, exact_p(gained, lost), "McNemar, exact")


def exact_p(gained: int, lost: int) -> float:
    """The two-sided p of `gained` against `lost` changes."""
    n, fewer = gained + lost, min(gained, lost)
    ways = total = 1  # of n changes, k the rarer way; each from the one before, which is fast for thousands
    for k in range(fewer):
        ways = ways * (n - k) // (k + 1)
        total += ways
    return min(1.0, 2 * total / 2**n)


def paired_scores(first: Sequence[Cluster], second: Sequence[Cluster]) -> Comparison:
    """Compare two mean scores.

    Args:
        first: Scores of the one, a sequence a prompt.
        second: Scores of the other for the same prompts and seeds, in the same order.
    """
    changes = [[b - a for a, b in zip(one, other, strict=True)] for one, other in _paired(first, second)]
    resampled = units(changes)
    n = sum(map(len, resampled))
    if n < 2:
        raise BadInput(f"A paired test needs at least two pairs of images; there is {n or 'none'}.")
    value = math.fsum(math.fsum(c) for c in resampled) / n
    draws = resampled_means(resampled, np.random.default_rng(0))
    low, high = percentiles(draws)
    return Comparison(value, low, high, n, _two_sided(draws), "paired bootstrap")


def paired_distances(
    statistic: Statistic, first: Features, second: Features, reference: Features, draws: int = 500
) -> Comparison:
    """Compare two distances from one reference (`fid.statistic`, `kid.statistic()`, `cmmd.statistic`).

    Args:
        statistic: Which distance.
        first: Images of the one.
        second: Images of the other for the same prompts and seeds, in the same order.
        reference: What both are measured against.
        draws: Number of resamples, each of the same images of both and of the reference.

    Raises:
        BadInput: The sets are not of the same prompts or not of one extractor.
    """
    if len(first) != len(second) or first.prompts != second.prompts:
        raise BadInput(_UNPAIRED)
    # Sets of one length and the same prompts are resampled alike.
    of_second, of_first = (
        statistic(images.values, reference.values, *resamples(images, reference, draws)) for images in (second, first)
    )
    values = of_second - of_first
    resampled = shifted(values[0], values[1:])
    low, high = percentiles(resampled)
    return Comparison(float(values[0]), low, high, len(first), _two_sided(resampled), "paired bootstrap")


def _paired(first: Sequence[Cluster], second: Sequence[Cluster]) -> list[tuple[Cluster, Cluster]]:
    if [len(c) for c in first] != [len(c) for c in second]:
        raise BadInput(_UNPAIRED)
    return list(zip(first, second, strict=True))


def _two_sided(draws: Array) -> float:
    """Twice the smaller share of draws beyond zero, the value itself counted as one more draw."""
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, 2 * (1 + float(beyond)) / (1 + len(draws)))
