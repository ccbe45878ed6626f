"""A command and the function that it calls, side by side, on a tiny random model and with a simple judge."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import efface
from efface import Eraser
from efface.cli.run import run
from efface.judges import JUDGES, JudgeEntry
from support import StubJudge

Answer = Callable[..., dict[str, Any]]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Runs one command line with `--json` in an empty folder and returns the object that it prints."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))

    def command(*arguments: object, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        assert run([*map(str, arguments), "--json"]) == code
        content = json.loads(capsys.readouterr().out)
        assert isinstance(content, dict)
        return content

    return command


@pytest.fixture
def eraser(tiny_sd: Path) -> Eraser:
    """An eraser of the tiny model, in memory."""
    return efface.erase(tiny_sd, "cat", "dog", preserve=["horse"])


class Brightness(StubJudge):
    """A judge of two concepts, "bright" and "dark"; the score of "bright" is the mean of the image."""

    name = "brightness"

    def knows(self, concept: str) -> bool:
        return concept in ("bright", "dark")

    def scores(self, images: np.ndarray, concepts: Sequence[str]) -> np.ndarray:
        bright = images.mean(axis=(1, 2, 3)) / 255
        return np.stack([bright if concept == "bright" else 1 - bright for concept in concepts], axis=1)


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge `brightness`."""
    entry = JudgeEntry("brightness", "for tests", "here", lambda options: Brightness())
    monkeypatch.setitem(JUDGES._entries, "brightness", entry)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two classes with six pictures each."""
    folder = tmp_path / "pictures"
    for label, colour in (("disc", 40), ("star", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (16, 16), (colour, 10 * number, 0)).save(folder / label / f"{number}.png")
    return folder
