"""CLIP accuracy: the share of images nearer to the target than to the anchor."""

from pathlib import Path

import numpy as np
import pytest

from efface.errors import BadInput
from efface.metrics.clip_accuracy import clip_accuracy
from efface.metrics.clip_score import ABLATION, clip_scores
from efface.metrics.rates import rate_with_interval, wilson
from efface.models.clip import Clip, open_clip


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> Clip:
    return open_clip(str(tiny_clip))


def test_is_the_share_of_wins(clip: Clip, pictures: list[np.ndarray]) -> None:
    of_target, of_anchor = (clip_scores(clip, pictures, [text] * 6, ABLATION) for text in ("golf ball", "ball"))
    wins = int((of_target > of_anchor).sum())
    value = clip_accuracy(clip, iter(pictures), "golf ball", "ball")
    assert (value.value, value.low, value.high, value.n) == tuple(wilson(wins, 6).as_dict().values())
    back = clip_accuracy(clip, pictures, "ball", "golf ball")
    assert back.value == pytest.approx(1 - value.value - np.mean(of_target == of_anchor))


def test_prompts_are_resampled_whole(clip: Clip, pictures: list[np.ndarray]) -> None:
    of_target, of_anchor = (clip_scores(clip, pictures, [text] * 6, ABLATION) for text in ("golf ball", "ball"))
    wins = (of_target > of_anchor).astype(float).tolist()
    rate = rate_with_interval([wins[0::2], wins[1::2]])
    value = clip_accuracy(clip, pictures, "golf ball", "ball", ["one", "two"] * 3)
    assert (value.value, value.low, value.high) == (rate.value, rate.low, rate.high)


def test_a_tie_is_no_success(clip: Clip, pictures: list[np.ndarray]) -> None:
    assert clip_accuracy(clip, pictures, "ball", "ball").value == 0


def test_bad_input(clip: Clip, pictures: list[np.ndarray]) -> None:
    with pytest.raises(BadInput, match="at least one image"):
        clip_accuracy(clip, [], "ball", "cat")
    with pytest.raises(BadInput, match="one prompt for each image"):
        clip_accuracy(clip, pictures, "ball", "cat", ["one"])
