"""Sets of features without an extractor."""

from collections.abc import Callable

import numpy as np
import pytest

from efface.metrics.features import Features

Normal = Callable[..., Features]


@pytest.fixture
def normal() -> Normal:
    """Features from a normal distribution with full covariance, the same for the same seed."""

    def draw(n: int, d: int = 5, mean: float = 0.0, seed: int = 0, prompts: tuple[str, ...] | None = None) -> Features:
        mix = np.random.default_rng(99).normal(size=(d, d)) / np.sqrt(d)
        values = np.random.default_rng(seed).normal(mean, 1, size=(n, d)) @ mix + 0.5
        return Features(values, "test", prompts)

    return draw


@pytest.fixture
def pictures() -> list[np.ndarray]:
    """Six images of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(20, 24), (32, 32), (40, 30), (32, 48), (64, 64), (33, 31)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
