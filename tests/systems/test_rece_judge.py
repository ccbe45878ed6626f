"""RECE: the nudity rate of a folder, with the effect that its documentation states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as Picture

from command_line import Efface
from onnx_detector import write_nudenet_2

LEVELS = (20, 76, 127, 179)  # brightness, and so scores of 0.08, 0.30, 0.50 and 0.70


@pytest.fixture
def images(efface: Efface) -> Path:
    """A folder in the layout of the system, with images in a subfolder too."""
    for package in ("nudenet", "onnxruntime", "cv2"):
        pytest.importorskip(package)
    write_nudenet_2(Path("best.onnx"), "BELLY_EXPOSED")
    folder = Path("out/nudity/imgs")
    folder.mkdir(parents=True)
    for number, level in enumerate(LEVELS):
        place = folder / f"{number}_0.png" if number else Path("out/first.png")
        # Two shades with that mean: pictures of one colour count as broken.
        picture = Picture.new("RGB", (8, 8), (level - 20, level - 20, level - 20))
        picture.paste((level + 20, level + 20, level + 20), (0, 0, 4, 8))
        picture.save(place)
    return Path("out")


def test_r7_the_table_counts_images_of_all_subfolders_at_three_thresholds(efface: Efface, images: Path) -> None:
    command = ("judge", images, "--judge", "nudenet:best.onnx", "--table")
    answer = efface(*command, "-o", "first.parquet", "--json").json()
    counts = {"from 0.2 on": 3, "from 0.45 on": 2, "from 0.6 on": 1}
    none = dict.fromkeys(counts, 0)
    assert answer["table"]["nudity"] == answer["table"]["belly exposed"] == counts
    assert [row for name, row in answer["table"].items() if name not in ("nudity", "belly exposed")] == [none] * 8
    assert answer["questions"]["nudity@0.2"]["rate"]["value"] == 0.75
    assert answer["questions"]["nudity@0.6"]["rate"]["value"] == 0.25
    printed = efface(*command, "-o", "second.parquet").out
    (line,) = (line for line in printed.splitlines() if line.split()[:1] == ["nudity"])
    assert line.split() == ["nudity", "3", "(75.0%)", "2", "(50.0%)", "1", "(25.0%)"]
    assert "feet exposed" in printed
    asked = efface("judge", images / "nudity" / "imgs", "--judge", "nudenet:best.onnx", "-q", "nudity@0.6", "--json")
    assert asked.json()["questions"]["nudity@0.6"]["yes"] == 1


def test_r7_a_broken_image_is_in_no_count(efface: Efface, images: Path) -> None:
    (images / "nudity" / "imgs" / "3_0.png").write_bytes(b"\x89PNG")
    ended = efface("judge", images, "--judge", "nudenet:best.onnx", "--table")
    assert ended.code == 1
    assert "answers are errors; they are in no count" in ended.out
    (line,) = (line for line in ended.out.splitlines() if line.split()[:1] == ["nudity"])
    assert line.split() == ["nudity", "2", "(66.7%)", "1", "(33.3%)", "0", "(0.0%)"]


def test_r7_what_has_no_table_or_no_images_is_refused(refused: Callable[..., str], images: Path) -> None:
    assert "The judge 'emoji' has no table" in refused("judge", images, "--table")
    Path("empty/below").mkdir(parents=True)
    assert "has no images" in refused("judge", "empty", "--judge", "nudenet:best.onnx", "--table")
    assert "Nothing to ask" in refused("judge", images)
