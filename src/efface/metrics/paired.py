"""Tests between two erasers on the same prompts and seeds: is one better, or is the difference chance?

Rates: McNemar's exact test (1947). Of the pairs with different outcomes, b changed in one direction and c in the other;
if both erasers were alike, b would be binomial (b + c, 1/2), so

    p = min(1, 2 P[X <= min(b, c)])

The test assumes that pairs are independent, which images of one prompt are not: with few prompts and many images of
each, use the interval, which resamples prompts. Scores and distances: the paired bootstrap (Efron and Tibshirani, 1993,
chapter 16), with p twice the share of resampled differences on the other side of zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from efface.errors import BadInput
from efface.metrics.base import Measured
from efface.metrics.bootstrap import Array, Cluster, Statistic, interval_of_mean, resampled_means, shifted, units
from efface.metrics.distance import check_same_extractor, draws_differ, interval_of_draws, resample, resamples
from efface.metrics.features import Features
from efface.metrics.rates import paired_difference

_UNPAIRED = "A paired test needs the same prompts and seeds in the same order for both."
_MCNEMAR, _BOOTSTRAP = "McNemar, exact", "paired bootstrap"


def mcnemar(first: Sequence[Cluster], second: Sequence[Cluster]) -> Measured:
    """Compare two rates: the second minus the first, with p-value.

    Args:
        first: Outcomes (0 or 1) of one eraser, a sequence for each prompt.
        second: Outcomes of the other eraser for the same prompts and seeds, in the same order.

    Raises:
        BadInput: The two are not paired, or an outcome is neither 0 nor 1.
    """
    pairs = [pair for one, other in _paired(first, second) for pair in zip(one, other, strict=True)]
    if any(outcome not in (0, 1) for pair in pairs for outcome in pair):
        raise BadInput("McNemar's test is for outcomes of 0 and 1; compare scores with paired_scores.")
    gained, lost = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    rate = paired_difference(first, second)
    return Measured(rate.value, rate.low, rate.high, rate.n, p=exact_p(gained, lost), test=_MCNEMAR)


def exact_p(gained: int, lost: int) -> float:
    """The two-sided p-value of `gained` against `lost` changes."""
    n, fewer = gained + lost, min(gained, lost)
    ways = total = 1  # of n changes, k in the rarer direction; each from the previous one, which is fast for thousands
    for k in range(fewer):
        ways = ways * (n - k) // (k + 1)
        total += ways
    return min(1.0, 2 * total / 2**n)


def paired_scores(first: Sequence[Cluster], second: Sequence[Cluster]) -> Measured:
    """Compare two mean scores: the second minus the first, with p-value.

    Args:
        first: Scores of one eraser, a sequence for each prompt.
        second: Scores of the other eraser for the same prompts and seeds, in the same order.

    Raises:
        BadInput: The two are not paired, or there are fewer than two pairs.
    """
    changes = [[b - a for a, b in zip(one, other, strict=True)] for one, other in _paired(first, second)]
    resampled = units(changes)
    n = sum(map(len, resampled))
    if n < 2:
        raise BadInput(f"A paired test needs at least two pairs of images; there is {n or 'none'}.")
    value = math.fsum(math.fsum(c) for c in resampled) / n
    draws = resampled_means(resampled, np.random.default_rng(0))
    low, high = interval_of_mean(resampled, value)
    return Measured(value, low, high, n, "score", p=_two_sided(draws), test=_BOOTSTRAP)


def paired_distances(
    statistic: Statistic, first: Features, second: Features, reference: Features, draws: int = 500
) -> Measured:
    """Compare two distances from one reference: the second minus the first, with p-value.

    Args:
        statistic: The distance (`fid.fid_statistic`, `kid.kid_statistic()`, `cmmd.cmmd_statistic`).
        first: Images of one eraser.
        second: Images of the other eraser for the same prompts and seeds, in the same order.
        reference: The set that both are compared with.
        draws: Number of resamples, each of the same images of both and of the reference.

    Raises:
        BadInput: The sets are not of the same prompts or not of one extractor, or too few images differ.
    """
    if len(first) != len(second) or first.prompts != second.prompts:
        raise BadInput(_UNPAIRED)
    check_same_extractor(second, reference)
    w, v = resamples(first, reference, draws)
    of_second = statistic(second.values, reference.values, w, v)
    # Sets of one length and the same prompts are resampled alike.
    values = of_second - statistic(first.values, reference.values, w, v)
    resampled = shifted(values[0], values[1:])
    p = _two_sided(resampled)
    if not draws_differ(resampled):  # equal sets, which independent resamples tell apart
        values = of_second - statistic(first.values, reference.values, resample(first, draws, seed=2), v)
        resampled = shifted(values[0], values[1:])
    low, high = interval_of_draws(resampled, len(first))
    return Measured(float(values[0]), low, high, len(first), "score", p=p, test=_BOOTSTRAP)


def _paired(first: Sequence[Cluster], second: Sequence[Cluster]) -> list[tuple[Cluster, Cluster]]:
    if [len(c) for c in first] != [len(c) for c in second]:
        raise BadInput(_UNPAIRED)
    return list(zip(first, second, strict=True))


def _two_sided(draws: Array) -> float:
    """Twice the smaller share of draws beyond zero, with the value itself counted as one more draw."""
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, 2 * (1 + float(beyond)) / (1 + len(draws)))
