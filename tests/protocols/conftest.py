"""Judges that need no network, and what the tests of several protocols share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efface.generation import Image
from efface.judges.base import Pixels, Scores
from efface.models import Model, open_model
from efface.protocols import run_images
from support import StubJudge


class Colours(StubJudge):
    """Sees the first of its words in what is mostly red, the second in green, the third in blue."""

    name, version = "colours", "1"

    def __init__(self, *words: str) -> None:
        self.words = words

    def knows(self, concept: str) -> bool:
        return concept in self.words

    def peers(self, concept: str) -> tuple[str, ...]:
        return tuple(word for word in self.words if word != concept)

    def threshold(self, concept: str) -> float:
        return 1 / 3

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        mean = images.mean(axis=(1, 2)) + 1e-9
        share = mean / mean.sum(1, keepdims=True)
        return share[:, [self.words.index(concept) % 3 for concept in concepts]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for one test."""
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def picture() -> np.ndarray:
    """Noise, (16, 16, 3)."""
    return np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each model's images that no question is asked of, the first is half a file before it is looked at."""
    real, whole = run_images.generate_images, dict[Path, tuple[Path, bytes]]()

    def spoiling(*args: Any, out: Path, **asked: Any) -> list[Image]:
        images = real(*args, out=out, **asked)
        if out in whole:  # these are more images of a model: questions are asked of the first ones
            path, content = whole[out]
            path.write_bytes(content)
        path = images[0].path
        assert path
        whole[out] = path, path.read_bytes()
        path.write_bytes(path.read_bytes()[:100])
        return images

    monkeypatch.setattr(run_images, "generate_images", spoiling)


ColoursMaker = Callable[..., Colours]


@pytest.fixture
def colours() -> ColoursMaker:
    """Makes a judge of three words or more."""
    return Colours


@pytest.fixture(scope="session")
def emoji() -> Model:
    """The embedded model; erasers leave it as it is."""
    return open_model("emoji")
