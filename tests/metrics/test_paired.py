"""Paired tests against scipy, and how often they are wrong."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from efface.errors import BadInput
from efface.metrics import cmmd, kid
from efface.metrics.base import Measured
from efface.metrics.features import Features
from efface.metrics.paired import exact_p, mcnemar, paired_distances, paired_scores


def p_of(comparison: Measured) -> float:
    """The p-value, which a comparison has."""
    assert comparison.p is not None
    return comparison.p


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 8), (8, 3), (5, 5), (40, 12), (600, 480)])
def test_mcnemar_agrees_with_scipy(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert exact_p(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_counts_the_pairs_that_differ() -> None:
    first, second = [[1, 1, 0, 0], [1, 0, 1]], [[1, 0, 1, 1], [1, 1, 1]]
    test = mcnemar(first, second)
    assert test.p == pytest.approx(stats.binomtest(3, 4).pvalue)
    assert (test.value, test.n) == (pytest.approx(2 / 7), 7)
    assert test.low <= test.value <= test.high
    back = mcnemar(second, first)
    assert (back.value, back.p) == (-test.value, test.p)


def test_erasers_that_are_alike() -> None:
    outcomes = [[1, 0, 1], [0, 0, 1]]
    assert mcnemar(outcomes, outcomes).p == 1
    assert paired_scores(outcomes, outcomes).p == 1


def test_scores_cancel_what_prompts_share() -> None:
    rng = np.random.default_rng(0)
    first = [(rng.normal(0, 10) + rng.normal(0, 0.1, 3)).tolist() for _ in range(20)]
    second = [[score + 0.5 for score in scores] for scores in first]
    test = paired_scores(first, second)
    assert test.value == pytest.approx(0.5)
    # All 20 differences are equal. The interval allows for exceptions: z^2 / (20 + z^2) of the prompts, by 1 each.
    assert (test.low, test.high) == pytest.approx((0.5 - 0.161125, 0.5 + 0.161125), abs=1e-5)
    assert p_of(test) < 0.01
    assert test.n == 60


def test_scores_are_rarely_called_different_by_chance() -> None:
    rng = np.random.default_rng(1)
    pairs = [rng.normal(size=(2, 30)) for _ in range(120)]
    found = sum(p_of(paired_scores([[x] for x in a], [[x] for x in b])) < 0.05 for a, b in pairs)
    assert found <= 14


def test_p_and_interval_say_the_same() -> None:
    rng = np.random.default_rng(2)
    for shift in np.linspace(0, 1, 9):
        first, second = rng.normal(size=(25, 1)).tolist(), (rng.normal(size=(25, 1)) + shift).tolist()
        test = paired_scores(first, second)
        if abs(p_of(test) - 0.05) > 0.01:
            assert (test.low <= 0 <= test.high) == (p_of(test) > 0.05)


def test_distances_of_the_same_images_cancel(normal: Any) -> None:
    prompts = tuple(f"prompt {i}" for i in range(30))
    reference, first = normal(40, seed=1), normal(30, mean=0.5, prompts=prompts)
    same = paired_distances(cmmd.cmmd_statistic, first, first, reference, draws=50)
    assert (same.value, same.p) == (0, 1)
    assert same.low < 0 < same.high, "an interval of width 0 would claim certainty"
    worse = Features(first.values + 0.5, "test", prompts)
    test = paired_distances(kid.kid_statistic(), first, worse, reference, draws=100)
    separate = [kid.kid(images, reference, draws=100) for images in (first, worse)]
    assert test.value == pytest.approx(separate[1].value - separate[0].value)
    assert p_of(test) < 0.05
    assert test.low > 0


def test_bad_input(normal: Any) -> None:
    with pytest.raises(BadInput, match="same prompts and seeds"):
        mcnemar([[1, 0]], [[1]])
    with pytest.raises(BadInput, match="outcomes of 0 and 1"):
        mcnemar([[0.5]], [[1]])
    with pytest.raises(BadInput, match="at least two pairs"):
        paired_scores([[0.5]], [[1]])
    with pytest.raises(BadInput, match="same prompts and seeds"):
        paired_distances(cmmd.cmmd_statistic, normal(5), normal(6), normal(7))
    other = Features(normal(5).values, "other")
    with pytest.raises(BadInput, match="'other'"):
        paired_distances(cmmd.cmmd_statistic, normal(5), other, normal(7))
