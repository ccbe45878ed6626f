"""KID against an explicit double sum and torchmetrics."""

from typing import Any

import numpy as np
import pytest
import torch

from efface.errors import BadInput
from efface.metrics.kid import kid, kid_statistic


def double_sum(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


def test_agrees_with_a_double_sum(normal: Any) -> None:
    x, y = normal(20), normal(13, mean=0.5, seed=1)
    value = kid(x, y, draws=50)
    assert value.value == pytest.approx(double_sum(x.values, y.values), abs=1e-6)
    assert value.low <= value.value <= value.high
    assert value.note == "against 13 images; whole sets"


def test_agrees_with_torchmetrics(normal: Any) -> None:
    image = pytest.importorskip("torchmetrics.image.kid")
    metric = image.KernelInceptionDistance(feature=torch.nn.Identity(), subsets=2, subset_size=20)
    x, y = normal(20), normal(20, mean=0.5, seed=1)
    metric.update(torch.from_numpy(y.values), real=True)
    metric.update(torch.from_numpy(x.values), real=False)
    assert kid(x, y, draws=20).value == pytest.approx(float(metric.compute()[0]), abs=1e-6)


def test_large_sets_are_the_mean_over_subsets(normal: Any) -> None:
    x, y = normal(20), normal(16, mean=0.5, seed=1)
    value = kid(x, y, draws=20, subsets=4, subset_size=10)
    rng = np.random.default_rng(0)
    subsets = [(rng.choice(20, 10, replace=False), rng.choice(16, 10, replace=False)) for _ in range(4)]
    expected = np.mean([double_sum(x.values[i], y.values[j]) for i, j in subsets])
    assert value.value == pytest.approx(expected, abs=1e-6)
    assert value.note == "against 16 images; 4 subsets of 10"


def test_a_subset_is_at_most_the_smaller_set(normal: Any) -> None:
    value = kid(normal(30), normal(6, seed=1), draws=20, subsets=3, subset_size=10)
    assert value.note == "against 6 images; 3 subsets of 6"
    assert np.isfinite([value.low, value.high]).all()


def test_copies_of_an_image_are_no_pair_in_a_resample(normal: Any) -> None:
    """Over resamples the mean is the value itself: repeats add no bias."""
    x, y = normal(12).values, normal(12, seed=1).values
    rng = np.random.default_rng(0)
    w, v = (rng.multinomial(12, np.full(12, 1 / 12), 20000).astype(float) for _ in range(2))
    draws = kid_statistic()(x, y, w, v)
    assert draws.mean() == pytest.approx(double_sum(x, y), abs=4 * draws.std() / np.sqrt(len(draws)))


def test_order_does_not_matter(normal: Any) -> None:
    x, y, ones = normal(20).values, normal(20, seed=1).values, np.ones((1, 20))
    assert kid_statistic()(x[::-1], y, ones, ones) == pytest.approx(kid_statistic()(x, y, ones, ones), abs=1e-9)


def test_is_unbiased(normal: Any) -> None:
    """Of two sets of one distribution it is 0 on average, however small they are."""
    ones = np.ones((1, 8))
    values = [
        kid_statistic()(normal(8, 3, 0, s).values, normal(8, 3, 0, s + 5000).values, ones, ones) for s in range(800)
    ]
    assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / np.sqrt(len(values)))


def test_the_interval_covers_the_truth(normal: Any) -> None:
    ones = np.ones((1, 1000))
    x, y = normal(1000, 3, 0.8, 7).values, normal(1000, 3, 0, 8).values
    truth = kid_statistic()(x, y, ones, ones)[0]
    values = [kid(normal(50, 3, 0.8, s), normal(50, 3, 0, s + 1000), draws=100) for s in range(60)]
    assert sum(value.low <= truth <= value.high for value in values) >= 52


def test_subsets_of_one_image_are_refused(normal: Any) -> None:
    with pytest.raises(BadInput, match="at least 2 images"):
        kid(normal(5), normal(5), subset_size=1)
