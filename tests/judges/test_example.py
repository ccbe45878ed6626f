"""The judge in the docstring of the contract works as it stands, by entry point too, in fewer than 40 lines."""

from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent

import pytest

import efface.judges.base
from efface.generation.folder import read_folder
from efface.judges import JudgeEntry, judge_images
from efface.judges.base import JudgeOptions
from efface.registry import Registry
from support import two_shades


@pytest.fixture
def example() -> str:
    text = efface.judges.base.__doc__ or ""
    return dedent(text[text.index("    import numpy") : text.index("Another package announces")])


def test_the_example_judges(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_red_judge.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("red", "their_red_judge:ENTRY", "efface.judges")
    monkeypatch.setattr("efface.registry.entry_points", lambda group: [point] if group == "efface.judges" else [])
    registry: Registry[JudgeEntry] = Registry("judge", {}, "efface.judges")
    assert registry.names() == ("red",)
    judge = registry.get("red").open(JudgeOptions())
    for name, colour in (("0.png", (255, 0, 0)), ("1.png", (0, 255, 0))):
        two_shades((8, 8), colour).save(tmp_path / name)
    assert [row.answer for row in judge_images(judge, read_folder(tmp_path), ["red"])] == ["yes", "no"]
    assert len(example.splitlines()) < 40
