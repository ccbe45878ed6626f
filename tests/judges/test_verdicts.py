"""A judge that fails, and an image that is no image, are errors; never an answer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from efface.errors import BadFile, BadInput
from efface.generation import read_folder
from efface.judges import judge_images, read_verdicts, write_verdicts
from efface.judges.base import Pixels, Scores
from support import StubJudge, two_shades


class Redness(StubJudge):
    """Says how red an image is; fails on pure blue, and has no answer for pure green."""

    name, version = "redness", "1"

    def knows(self, concept: str) -> bool:
        return concept == "red"

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        mean = images.mean(axis=(1, 2)) / 255
        if (mean[:, 2] == 1).any():
            raise RuntimeError("blue")
        return np.where(mean[:, 1] == 1, np.nan, mean[:, 0])[:, None].repeat(len(concepts), 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in {"a": (255, 0, 0), "b": (10, 0, 0), "c": (0, 0, 255), "d": (0, 255, 0)}.items():
        two_shades((4, 4), colour).save(tmp_path / f"{name}.png")
    two_shades((9, 5), (255, 0, 0)).save(tmp_path / "e.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "f.png").write_bytes(whole[:50])
    return tmp_path


def test_answers_and_errors(folder: Path) -> None:
    rows = judge_images(Redness(), read_folder(folder), ["red"])
    assert [row.file_name for row in rows] == ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"]
    assert [row.answer for row in rows] == ["yes", "no", "error", "error", "yes", "error"]
    assert rows[2].error == "the judge failed: RuntimeError: blue"
    assert rows[3].error == "the judge gave no score"
    assert rows[5].error.startswith("the image cannot be read")
    assert all(np.isnan(row.score) for row in rows if row.answer == "error")


def test_unknown_concepts_are_a_mistake_not_an_error(folder: Path) -> None:
    with pytest.raises(BadInput, match="'redness' cannot recognise 'cat'"):
        judge_images(Redness(), read_folder(folder), ["cat"])


def test_parquet_keeps_everything(folder: Path, tmp_path: Path) -> None:
    rows = judge_images(Redness(), read_folder(folder), ["red"])
    write_verdicts(tmp_path / "v.parquet", rows)
    again = read_verdicts(tmp_path / "v.parquet")
    assert [(r.file_name, r.question, r.answer, r.error, r.threshold, r.judge, r.judge_version) for r in again] == [
        (r.file_name, r.question, r.answer, r.error, r.threshold, r.judge, r.judge_version) for r in rows
    ]
    assert np.array_equal([r.score for r in again], [r.score for r in rows], equal_nan=True)
    write_verdicts(tmp_path / "none.parquet", [])
    assert read_verdicts(tmp_path / "none.parquet") == []


def test_bad_verdict_files(tmp_path: Path) -> None:
    (tmp_path / "v.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(BadFile, match="Cannot read verdicts"):
        read_verdicts(tmp_path / "v.parquet")
    with pytest.raises(BadFile, match="Cannot read verdicts"):
        read_verdicts(tmp_path / "missing.parquet")
