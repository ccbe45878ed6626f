"""Intervals against independent computations, and their coverage."""

import numpy as np
import pytest
from scipy import stats

from efface.metrics.bootstrap import percentiles, resampled_means
from efface.metrics.rates import harmonic_mean, paired_difference, rate_with_interval, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (3, 7), (95, 100), (1, 1)])
def test_wilson_agrees_with_scipy(successes: int, n: int) -> None:
    ours = wilson(successes, n)
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert ours.value == successes / n
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert ours.low <= ours.value <= ours.high


def test_wilson_refuses_no_draws() -> None:
    with pytest.raises(ValueError, match="n >= 1"):
        wilson(0, 0)


def test_numbers_of_no_image_are_refused() -> None:
    for number in (lambda: rate_with_interval([[]]), lambda: harmonic_mean([[[1.0]], [[]]])):
        with pytest.raises(ValueError, match="at least one image"):
            number()
    with pytest.raises(ValueError, match="at least one pair"):
        paired_difference([[]], [[]])


def test_prompts_with_equal_rates_have_wilsons_interval_of_that_rate() -> None:
    """Three draws at a rate of one half: 1.5 successes, between those of 1 and 2 and symmetric about one half."""
    half = rate_with_interval([[1, 0], [0, 1], [1, 0]])
    z = stats.norm.ppf(0.975)
    spread = z / (1 + z**2 / 3) * np.sqrt(0.25 / 3 + z**2 / (4 * 3**2))
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5 - spread, 0.5 + spread), rel=1e-12)
    assert wilson(1, 3).low < half.low < wilson(2, 3).low


def test_one_prompt_is_wilson() -> None:
    assert rate_with_interval([[1, 0, 1, 1]]) == wilson(3, 4)


def test_clusters_widen_the_interval() -> None:
    """Ten images that all agree within their prompt say little more than one image a prompt."""
    alike = rate_with_interval([[float(i % 2)] * 10 for i in range(12)])
    independent = wilson(60, 120)
    assert alike.value == independent.value == 0.5
    assert alike.high - alike.low > 2 * (independent.high - independent.low)


def test_no_spread_is_not_certainty() -> None:
    rate = rate_with_interval([[1.0] * 5] * 8)
    assert (rate.value, rate.high, rate.n) == (1.0, 1.0, 40)
    assert rate.low == pytest.approx(wilson(8, 8).low)


def test_bootstrap_covers_the_truth() -> None:
    """Over 200 draws of beta-binomial clusters, about 95% of the intervals hold the true mean."""
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(200):
        p = rng.beta(3, 1, size=40)
        rate = rate_with_interval([rng.binomial(1, q, 5).tolist() for q in p])
        inside += rate.low <= 0.75 <= rate.high
    assert 180 <= inside <= 199


def test_same_verdicts_same_interval() -> None:
    clusters = [[1, 0, 1], [0, 0], [1, 1, 1, 0]]
    assert rate_with_interval(clusters) == rate_with_interval(clusters)


def test_harmonic_mean() -> None:
    parts = [[[1, 0], [1, 1]], [[1, 1], [0, 0]]]
    rate = harmonic_mean(parts)
    assert rate.value == pytest.approx(stats.hmean([0.75, 0.5]))
    assert rate.low <= rate.value <= rate.high
    assert rate.n == 8
    assert harmonic_mean([[[0.0, 0.0]], [[1.0]]]).value == 0.0


@pytest.mark.parametrize(
    "parts",
    [
        [[[1.0] * 5] * 8] * 5,
        [[[1.0] * 5] * 8] * 9,
        [[[1.0]], [[1.0, 1.0]]],
        [[[0.0] * 3] * 4, [[1.0] * 3] * 4],
        [[[1, 0, 1, 1]], [[1, 1, 1]]],
        [[[1, 0], [0, 1]], [[1, 0], [1, 0]]],
    ],
)
def test_a_harmonic_mean_is_never_certain(parts: list[list[list[float]]]) -> None:
    rate = harmonic_mean(parts)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.high - rate.low > 0.05


def test_a_part_without_spread_counts_with_its_own_interval() -> None:
    for part in ([[1.0] * 5] * 8, [[0.0] * 5] * 8, [[1, 0, 1, 1, 1, 0, 1]]):
        own, rate = rate_with_interval(part), harmonic_mean([part])
        assert (rate.low, rate.high) == pytest.approx((own.low, own.high), abs=0.02)
        assert rate.value == pytest.approx(own.value)


def test_where_there_is_spread_a_harmonic_mean_is_the_plain_bootstraps() -> None:
    parts = [[[1, 0], [1, 1], [0, 0]], [[1, 1], [0, 0], [1, 1, 0]]]
    rng = np.random.default_rng(0)
    draws = np.stack([resampled_means(part, rng) for part in parts])
    with np.errstate(divide="ignore"):
        expected = percentiles(2 / (1 / draws).sum(0))
    rate = harmonic_mean(parts)
    assert (rate.low, rate.high) == pytest.approx(expected)


def test_prompts_that_are_all_alike_are_not_certainty() -> None:
    rate = rate_with_interval([[1, 0]] * 6)
    assert (rate.value, rate.low, rate.high) == pytest.approx((0.5, wilson(3, 6).low, wilson(3, 6).high))


@pytest.mark.parametrize("change", [-1, 0, 1])
@pytest.mark.parametrize("shape", [(6, 3), (1, 6), (1, 1)])
def test_the_same_change_everywhere_is_not_certainty(change: int, shape: tuple[int, int]) -> None:
    before, after = np.full(shape, float(change < 0)), np.full(shape, float(change > 0))
    found = paired_difference(before.tolist(), after.tolist())
    bound = wilson(0, shape[0] if shape[0] > 1 else shape[1]).high
    assert found.value == change
    assert (found.low, found.high) == pytest.approx((max(change - bound, -1), min(change + bound, 1)))


def test_paired_difference_cancels_shared_noise() -> None:
    rng = np.random.default_rng(0)
    before = [rng.binomial(1, 0.5, 10).tolist() for _ in range(20)]
    after = [row.copy() for row in before]
    after[0][0] = 1 - after[0][0]
    change = paired_difference(before, after)
    assert abs(change.value) == pytest.approx(1 / 200)
    assert change.high - change.low < 0.02
    same = paired_difference(before, before)
    assert same.value == 0
    assert same.low < 0 < same.high
