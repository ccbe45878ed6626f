"""Means of scores: their value, their interval, and how often it holds the truth."""

import numpy as np
import pytest
from scipy import stats

from efface.errors import BadInput
from efface.metrics.bootstrap import by_prompt, mean_with_interval, shifted


def test_the_mean_is_over_images() -> None:
    value = mean_with_interval([[1.0, 2.0, 3.0], [7.0], []], "test", "a note")
    assert (value.value, value.n, value.extractor, value.note) == (3.25, 4, "test", "a note")
    assert value.low <= value.value <= value.high


def test_one_prompt_is_resampled_by_image() -> None:
    scores = np.random.default_rng(0).normal(size=200)
    value = mean_with_interval([scores.tolist()], "test")
    expected = stats.norm.interval(0.95, scores.mean(), scores.std() / np.sqrt(200))
    assert (value.low, value.high) == pytest.approx(expected, abs=0.01)


def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        value = mean_with_interval([(rng.normal(2, 1) + rng.normal(0, 1, 4)).tolist() for _ in range(40)], "test")
        inside += value.low <= 2 <= value.high
    assert 86 <= inside <= 100


def test_clusters_by_prompt() -> None:
    assert by_prompt([1.0, 2.0, 3.0], ["b", "a", "b"]) == [[1.0, 3.0], [2.0]]
    assert by_prompt([1.0, 2.0], None) == [[1.0, 2.0]]


@pytest.mark.parametrize("clusters", [[], [[]], [[1.0]]])
def test_fewer_than_two_images_have_no_interval(clusters: list[list[float]]) -> None:
    with pytest.raises(BadInput, match="at least two images"):
        mean_with_interval(clusters, "test")


def test_shifted_draws_have_the_value_as_their_mean() -> None:
    draws = shifted(5.0, np.array([1.0, np.nan, 3.0, np.inf]))
    assert draws.tolist() == [4.0, 6.0]
