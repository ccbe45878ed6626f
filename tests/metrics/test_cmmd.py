"""CMMD against an explicit double sum."""

from typing import Any

import numpy as np
import pytest

from efface.metrics.cmmd import cmmd, cmmd_statistic
from efface.metrics.features import Features


def double_sum(x: np.ndarray, y: np.ndarray) -> float:
    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.exp(-np.sum((p - q) ** 2) / (2 * 10**2)) for p in a for q in b]))

    x, y = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in (x, y))
    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def test_agrees_with_a_double_sum(normal: Any) -> None:
    x, y = normal(20), normal(13, mean=0.5, seed=1)
    value = cmmd(x, y, draws=50)
    assert value.value == pytest.approx(double_sum(x.values, y.values), abs=1e-6)
    assert 0 <= value.low <= value.value <= value.high


def test_blocks_of_rows_add_up(normal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(20), normal(13, mean=0.5, seed=1)
    whole = cmmd(x, y, draws=50)
    monkeypatch.setattr("efface.metrics.distance._ROWS", 3)
    blocks = cmmd(x, y, draws=50)
    assert (blocks.value, blocks.low, blocks.high) == pytest.approx((whole.value, whole.low, whole.high), abs=1e-9)


def test_of_a_set_with_itself_is_zero_in_any_order_and_scale(normal: Any) -> None:
    x, ones = normal(20).values, np.ones((1, 20))
    assert cmmd_statistic(x, 3 * x[::-1], ones, ones) == pytest.approx(0, abs=1e-9)


def test_a_weight_is_a_repeated_image(normal: Any) -> None:
    x, y = normal(9).values, normal(8, seed=1).values
    w = np.arange(9) % 3
    weighted = cmmd_statistic(x, y, w[None].astype(float), np.ones((1, 8)))[0]
    assert weighted == pytest.approx(double_sum(np.repeat(x, w, 0), y), abs=1e-6)


def test_a_set_of_its_own_reference_keeps_zero_in_its_interval(normal: Any) -> None:
    x = normal(20)
    value = cmmd(x, Features(x.values, "test"), draws=50)
    assert value.low <= 0 <= value.value <= value.high
