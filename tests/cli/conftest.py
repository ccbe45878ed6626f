"""Commands run in this process, on a tiny random model and with a judge that is sure of everything."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from command_line import Efface
from efface.judges import JUDGES, JudgeEntry
from support import StubJudge


class Sure(StubJudge):
    """A judge that gives every image one score for every concept; `fail` makes it raise."""

    name, version = "sure", "1"

    def __init__(self, fail: bool, score: float = 1.0) -> None:
        self.fail, self.score = fail, score

    def knows(self, concept: str) -> bool:
        return concept != "unheard-of"

    def scores(self, images: np.ndarray, concepts: Sequence[str]) -> np.ndarray:
        if self.fail:
            raise OSError("out of order")
        return np.full((len(images), len(concepts)), self.score)


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judges `sure`, `never`, `failing` and `numberless`."""
    kinds = {"sure": Sure(False), "never": Sure(False, 0.0), "failing": Sure(True), "numberless": Sure(False, np.nan)}
    for name, judge in kinds.items():
        entry = JudgeEntry(name, "for tests", "here", lambda asked, judge=judge: judge)
        monkeypatch.setitem(JUDGES._entries, name, entry)


class Late(Sure):
    """A judge that finds nothing in the first images that it sees, and everything in those after them."""

    def __init__(self, first: int) -> None:
        super().__init__(fail=False)
        self.left = first

    def scores(self, images: np.ndarray, concepts: Sequence[str]) -> np.ndarray:
        self.left, early = self.left - len(images), np.arange(len(images)) < self.left
        return np.repeat(np.where(early, 0.0, 1.0)[:, None], len(concepts), axis=1)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the judge `late`, who finds nothing in so many images."""

    def make(first: int) -> None:
        judge = Late(first)
        monkeypatch.setitem(JUDGES._entries, "late", JudgeEntry("late", "for tests", "here", lambda asked: judge))

    return make


class Red(Sure):
    """A judge that finds every concept in what is red."""

    def scores(self, images: np.ndarray, concepts: Sequence[str]) -> np.ndarray:
        return np.repeat(images[:, :1, 0, 0] / 255.0, len(concepts), axis=1)


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge `red`."""
    monkeypatch.setitem(JUDGES._entries, "red", JudgeEntry("red", "for tests", "here", lambda asked: Red(fail=False)))


@pytest.fixture
def eraser(efface: Efface, tiny_sd: Path) -> Path:
    """An eraser of the tiny model, made by the command."""
    path = Path("cat.safetensors")
    assert efface("erase", "cat", "--to", "dog", "--model", tiny_sd, "--preserve", "horse", "-o", path).code == 0
    return path
