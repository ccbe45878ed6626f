"""Commands run in this process, on a tiny random model and with a judge that is sure of everything."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efface.cli.run import run
from efface.judges import JUDGES, JudgeEntry
from support import StubJudge


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON object on one line."""
        assert self.out.count("\n") == 1, self.out
        content = json.loads(self.out)
        assert isinstance(content, dict)
        return content


Efface = Callable[..., Outcome]


@pytest.fixture
def efface(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Efface:
    """Runs one command line in an empty folder, with a cache of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))

    def command(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return command


@pytest.fixture
def refused(efface: Efface) -> Callable[..., str]:
    """Runs a command that must be refused: exit 2, one line, no new file; gives the line."""

    def command(*arguments: object) -> str:
        before = sorted(Path().rglob("*"))
        ended = efface(*arguments)
        assert ended.code == 2, ended
        assert ended.out == ""
        assert ended.err.count("\n") == 1, ended.err
        assert "Traceback" not in ended.err
        assert sorted(Path().rglob("*")) == before
        return ended.err

    return command


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
