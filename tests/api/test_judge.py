import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import efface
from efface import BadInput
from efface.judges import read_verdicts
from support import two_shades

COLOURS = {"a": 250, "b": 200, "c": 20}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of two prompts, and one that cannot be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = [{"file_name": f"{name}.png", "prompt": "x" if name == "a" else "y"} for name in (*COLOURS, "broken")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, grey in COLOURS.items():
        two_shades((8, 8), (grey, grey, grey)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"x")
    return folder


def test_it_returns_what_the_command_prints(answer, brightness, folder):
    questions = ("-q", "bright", "-q", "dark")
    printed = answer("judge", folder, *questions, "--judge", "brightness", "-o", "one.parquet", code=1)
    result = efface.judge(folder, ["bright", "dark"], judge="brightness", out="two.parquet")
    assert {**result.to_json(), "verdicts": "one.parquet"} == printed
    assert Path("one.parquet").read_bytes() == Path("two.parquet").read_bytes()
    assert (result.questions["bright"].yes, result.questions["bright"].error, result.errors) == (2, 1, 2)
    assert str(read_verdicts(Path("two.parquet"))) == str(list(result.verdicts))  # a score may be NaN


def test_images_may_be_in_memory(brightness, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arrays = [np.asarray(two_shades((8, 8), (grey, grey, grey))) for grey in COLOURS.values()]
    before = sorted(tmp_path.rglob("*"))
    judge = efface.open_judge("brightness")
    for images in (
        arrays,
        [Image.fromarray(array) for array in arrays],
        [Image.fromarray(array[..., 0]) for array in arrays],
    ):
        result = efface.judge(images, "bright", judge=judge)
        assert [verdict.answer for verdict in result.verdicts] == ["yes", "yes", "no"]
        assert result.to_json()["verdicts"] is None
    assert sorted(tmp_path.rglob("*")) == before


def test_generated_images_are_judged_without_a_folder(brightness, tiny_sd, tmp_path):
    model = efface.open_model(tiny_sd)
    images = efface.generate(["a cat", "a dog"], model=model, steps=1, n=3)
    written = efface.generate(["a cat", "a dog"], model=model, steps=1, n=3, folder=tmp_path / "images")
    results = [efface.judge(given, "dark", judge="brightness") for given in (images, written, tmp_path / "images")]
    assert results[0] == results[1] == results[2]
    assert results[0].questions["dark"].rate is not None


def test_a_folder_and_its_images_have_one_interval(brightness, folder):
    (folder / "broken.png").unlink()
    rows = (folder / "metadata.jsonl").read_text().splitlines()[:-1]
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    by_prompt = efface.judge(folder, "bright", judge="brightness").questions["bright"].rate
    independent = (
        efface.judge([Image.open(folder / f"{name}.png") for name in COLOURS], "bright", judge="brightness")
        .questions["bright"]
        .rate
    )
    assert by_prompt is not None
    assert independent is not None
    assert by_prompt.value == independent.value
    assert (by_prompt.low, by_prompt.high) != (independent.low, independent.high)


def test_bad_input_is_refused(brightness, folder):
    with pytest.raises(BadInput, match="Nothing to ask"):
        efface.judge(folder, [], judge="brightness")
    with pytest.raises(BadInput, match="There is no image"):
        efface.judge([], "bright", judge="brightness")
    with pytest.raises(BadInput, match=r"Image 0: it has the shape \(8, 8\)"):
        efface.judge([np.zeros((8, 8), np.uint8)], "bright", judge="brightness")
    with pytest.raises(BadInput, match="cannot recognise 'cat'"):
        efface.judge(folder, "cat", judge="brightness")
