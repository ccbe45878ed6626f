"""The contract of metrics: these tests run for each registered one, on sets that it must tell apart."""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import numpy as np
import pytest
import torch
from torch import Tensor

from efface.metrics import METRICS, Measured
from efface.metrics.features import Features

Images = Sequence[np.ndarray]
RED, BLUE = (np.full((4, 4, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
#: By what a metric compares: one that is as good as can be expected, and one that is worse.
GOOD: list[np.ndarray] = [RED, RED, BLUE, RED, BLUE, RED, RED, RED]
PROMPTS = ["red", "red", "blue", "red", "blue", "red", "red", "red"]
BAD: list[np.ndarray] = [RED, BLUE, RED, BLUE, BLUE, BLUE, RED, RED]

pytestmark = [
    pytest.mark.parametrize("name", METRICS.names()),
    pytest.mark.filterwarnings("ignore:FID of"),
]


class ColourClip:
    """A CLIP whose cosine is 1 where a text names an image's colour, else 0.5."""

    version = "colours"

    def cosines(self, images: Images, texts: Sequence[str]) -> Tensor:
        names = ["red" if image[0, 0, 0] else "blue" for image in images]
        return torch.tensor([[1.0 if name in text else 0.5 for text in texts] for name in names])


class ColourDistance:
    """A distance of pairs: the mean difference of bytes."""

    version = "bytes"

    def distances(self, first: Iterable[np.ndarray], second: Iterable[np.ndarray]) -> np.ndarray:
        pairs = zip_longest(first, second)
        return np.array([np.abs(one.astype(float) - other.astype(float)).mean() for one, other in pairs])


def features(images: Images, seed: int) -> Features:
    """Their mean colours with noise, 30 of each image."""
    means = np.repeat([image.mean(axis=(0, 1)) / 255 for image in images], 30, axis=0)
    return Features(means + np.random.default_rng(seed).normal(0, 0.05, means.shape), "means")


def measured(name: str, images: Images) -> Measured:
    """The metric of images that should be `GOOD`."""
    entry, clip = METRICS.get(name), ColourClip()
    measure: dict[str, Callable[[], Measured]] = {
        "two sets": lambda: entry.measure(features(images, 1), features([RED, RED, RED, BLUE], 2)),
        "pairs of images": lambda: entry.measure(ColourDistance(), images, GOOD, PROMPTS),
        "images and texts": lambda: entry.measure(clip, images, PROMPTS),
    }
    if name == "clip_accuracy":  # its texts are the erased concept and its anchor
        return entry.measure(clip, images, "red", "blue", PROMPTS)
    return measure[entry.over]()


def test_its_entry_is_complete(name: str) -> None:
    entry = METRICS.get(name)
    assert entry.name == name
    assert entry.summary
    assert len(entry.summary) < 120
    assert entry.paper.startswith("https://")
    assert entry.over in ("two sets", "images and texts", "pairs of images")
    assert entry.better in ("higher", "lower")


def test_a_value_has_an_interval_a_number_of_images_and_an_extractor(name: str) -> None:
    for images in (GOOD, BAD):
        value = measured(name, images)
        assert value.low <= value.value <= value.high
        assert np.isfinite([value.low, value.high]).all()
        assert value.n == (30 if METRICS.get(name).over == "two sets" else 1) * len(images)
        assert value.extractor
        content = json.loads(json.dumps(value.as_dict()))
        assert {"value", "low", "high", "n", "extractor"} <= content.keys()
        assert value.extractor in str(value)


def test_the_same_images_give_the_same_value(name: str) -> None:
    assert measured(name, BAD) == measured(name, BAD)


def test_images_that_should_be_left_alone_are_better_when_they_are(name: str) -> None:
    good, bad = measured(name, GOOD).value, measured(name, BAD).value
    assert good > bad if METRICS.get(name).better == "higher" else good < bad
