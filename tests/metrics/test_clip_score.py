"""CLIP score by hand from the features of a tiny CLIP."""

import math
from pathlib import Path

import numpy as np
import pytest

from efface.errors import BadInput
from efface.metrics.clip_score import ABLATION, PLAIN, ClipScoreConfig, clip_score, clip_scores
from efface.models.clip import Clip, open_clip

TEXTS = ["a cat", "a dog", "a cat", "a horse", "a boat", "a dog"]


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> Clip:
    return open_clip(str(tiny_clip))


def by_hand(clip: Clip, pictures: list[np.ndarray], weight: float, prefix: str) -> list[float]:
    """From the features of one batch: those of another differ by float32's rounding in the network."""
    texts = list(dict.fromkeys(prefix + text for text in TEXTS))
    features = dict(zip(texts, clip.text_features(texts).tolist(), strict=True))
    scores: list[float] = []
    for f, text in zip(clip.image_features(pictures).tolist(), TEXTS, strict=True):
        g = features[prefix + text]
        dot = math.fsum(a * b for a, b in zip(f, g, strict=True))
        scores.append(weight * max(dot / (math.hypot(*f) * math.hypot(*g)), 0.0))
    return scores


@pytest.mark.parametrize(("config", "weight", "prefix"), [(PLAIN, 100, ""), (ABLATION, 2.5, "A photo depicts ")])
def test_agrees_with_a_computation_by_hand(
    clip: Clip, pictures: list[np.ndarray], config: ClipScoreConfig, weight: float, prefix: str
) -> None:
    expected = by_hand(clip, pictures, weight, prefix)
    assert clip_scores(clip, iter(pictures), TEXTS, config) == pytest.approx(expected, rel=0, abs=1e-6)
    value = clip_score(clip, pictures, TEXTS, config)
    assert value.value == pytest.approx(np.mean(expected), rel=0, abs=1e-6)
    assert value.low <= value.value <= value.high
    assert value.n == 6


def test_opposite_images_score_zero(clip: Clip, pictures: list[np.ndarray]) -> None:
    cosines = clip.cosines(pictures, ["a cat"]).numpy()[:, 0]
    scores = clip_scores(clip, pictures, ["a cat"] * 6)
    assert scores == pytest.approx(100 * np.clip(cosines, 0, None), abs=1e-9)


def test_settings_are_part_of_the_extractor(clip: Clip) -> None:
    assert PLAIN.version(clip) != ABLATION.version(clip)
    assert clip.version in PLAIN.version(clip)


@pytest.mark.parametrize("texts", [TEXTS[:-1], [*TEXTS, "one more"]])
def test_a_text_for_each_image(clip: Clip, pictures: list[np.ndarray], texts: list[str]) -> None:
    with pytest.raises(BadInput, match="one text for each image"):
        clip_score(clip, pictures, texts)


def test_one_image_has_no_interval(clip: Clip, pictures: list[np.ndarray]) -> None:
    with pytest.raises(BadInput, match="at least two images; there is 1"):
        clip_score(clip, pictures[:1], TEXTS[:1])
