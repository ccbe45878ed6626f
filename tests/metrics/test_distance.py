"""What all distances share: one extractor, a fixed seed, prompts resampled whole."""

from typing import Any

import numpy as np
import pytest

from efface.errors import BadInput
from efface.metrics.bootstrap import weights
from efface.metrics.cmmd import cmmd
from efface.metrics.distance import resamples
from efface.metrics.features import Features


def test_two_extractors_have_no_distance(normal: Any) -> None:
    with pytest.raises(BadInput, match=r"'other'.*'test'"):
        cmmd(Features(normal(5).values, "other"), normal(5))


def test_too_few_draws_make_no_interval(normal: Any) -> None:
    with pytest.raises(BadInput, match="at least 20"):
        cmmd(normal(5), normal(5), draws=3)


def test_same_features_same_interval(normal: Any) -> None:
    assert cmmd(normal(12), normal(9, seed=1)) == cmmd(normal(12), normal(9, seed=1))


def test_images_of_one_prompt_are_resampled_together() -> None:
    w = weights(["a", "b", "a", "c"], 4, 50, np.random.default_rng(0))
    assert (w[0] == 1).all()
    assert (w[:, 0] == w[:, 2]).all()
    assert (w[1:, [0, 1, 3]].sum(1) == 3).all()
    assert w[1:].std() > 0


def test_an_only_prompt_is_resampled_by_image() -> None:
    w = weights(["a"] * 4, 4, 50, np.random.default_rng(0))
    assert (w.sum(1) == 4).all()
    assert (w[1:] != 1).any()


def test_sets_of_the_same_prompts_are_resampled_together(normal: Any) -> None:
    x, y = normal(6, prompts=("a", "a", "b", "b", "c", "c")), normal(3, seed=1, prompts=("c", "a", "b"))
    w, v = resamples(x, y, 40)
    assert (w[:, [4, 0, 2]] == v).all()
    w, v = resamples(x, normal(3, seed=1, prompts=("d", "a", "b")), 40)
    assert (w[:, [4, 0, 2]] != v).any()


def test_shared_prompts_narrow_the_interval(normal: Any) -> None:
    """What prompts do to both sets cancels."""
    prompts = tuple(f"prompt {i}" for i in range(40))
    base = normal(40, prompts=prompts)
    moved = Features(base.values + 0.1, "test", prompts)
    alone = cmmd(Features(moved.values, "test"), Features(base.values, "test"))
    together = cmmd(moved, base)
    assert together.value == alone.value
    assert together.high - together.low < (alone.high - alone.low) / 2


def test_prompts_with_many_images_widen_the_interval(normal: Any) -> None:
    x, y = normal(6), normal(300, seed=1)
    many = np.repeat(x.values, 10, 0)
    prompts = tuple(f"prompt {i // 10}" for i in range(60))
    clustered, independent = cmmd(Features(many, "test", prompts), y), cmmd(Features(many, "test"), y)
    assert clustered.high - clustered.low > 1.5 * (independent.high - independent.low)
