"""CiE and SepCE: the images of their documentation, for training and for evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import Efface

ROWS = "case_number,prompt,evaluation_seed\n12,a painting of a cat by van gogh,7\n13,a house by picasso,8\n"
QUICK = ("--steps", 2)


def metadata(folder: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(folder, "metadata.jsonl").read_text().splitlines()]


def test_s7_images_are_named_by_case_number(efface: Efface, tiny_sd: Path):
    Path("art_prompts.csv").write_text(ROWS)
    command = ("generate", "--prompts", "art_prompts.csv", *QUICK, "--model", tiny_sd)
    assert efface(*command, "-n", 3, "--file-names", "case", "-o", "images").code == 0
    names = [f"{case}_{i}.png" for case in (12, 13) for i in range(3)]
    assert sorted(path.name for path in Path("images").glob("*.png")) == names
    rows = metadata("images")
    assert [(row["file_name"], row["case_number"], row["seed"]) for row in rows] == [
        (f"{case}_{i}.png", case, seed + i) for case, seed in ((12, 7), (13, 8)) for i in range(3)
    ]
    assert efface(*command, "-n", 1, "-o", "by-prompt").code == 0
    for row in metadata("by-prompt"):  # the same pictures, whatever their names
        assert str(row["file_name"]).startswith("a-")
        first = Path("images", f"{row['case_number']}_0.png").read_bytes()
        assert Path("by-prompt", str(row["file_name"])).read_bytes() == first
    resumed = efface(*command, "-n", 4, "--file-names", "case", "-o", "images", "--json").json()
    assert len(resumed["images"]) == 8


def test_s7_rows_of_equal_images_have_a_file_each(efface: Efface, tiny_sd: Path):
    Path("prompts.csv").write_text("prompt,evaluation_seed,case_number\na cat,1,5\na cat,2,6\n")
    command = ("generate", "--prompts", "prompts.csv", "-n", 2, *QUICK, "--model", tiny_sd)
    assert efface(*command, "--file-names", "case", "-o", "images").code == 0
    assert Path("images/5_1.png").read_bytes() == Path("images/6_0.png").read_bytes()
    assert Path("images/5_0.png").read_bytes() != Path("images/6_1.png").read_bytes()


@pytest.mark.parametrize(
    ("content", "names", "reason"),
    [
        (ROWS, "number", "write prompt, or case"),
        (ROWS.replace("13", "12"), "case", "Two prompts have the case_number 12"),
        (ROWS.replace("13", ""), "case", "'a house by picasso' has no case_number"),
        (ROWS.replace("13", "first"), "case", "line 3: case_number is 'first'"),
        ("prompt\na cat\n", "case", "no case_number"),
    ],
)
def test_s7_bad_case_numbers(refused: Callable[..., str], tiny_sd: Path, content: str, names: str, reason: str):
    Path("prompts.csv").write_text(content)
    assert reason in refused("generate", "--prompts", "prompts.csv", "--model", tiny_sd, "--file-names", names)


def test_s7_an_image_of_other_settings_is_not_replaced(efface: Efface, tiny_sd: Path):
    Path("prompts.csv").write_text(ROWS)
    command = ("generate", "--prompts", "prompts.csv", "--file-names", "case", "--model", tiny_sd, "-o", "images")
    assert efface(*command, "--steps", 2).code == 0
    before = {path.name: path.read_bytes() for path in Path("images").iterdir()}
    ended = efface(*command, "--steps", 2, "--guidance", 3)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "images has images of another run, with guidance 7.5 instead of 3.0" in ended.err
    assert {path.name: path.read_bytes() for path in Path("images").iterdir()} == before


ARTISTS = "concept,prompt\nVan Gogh,art by van gogh\nVan Gogh,a house by van gogh\nPicasso,art by picasso\nblank,\n"


def test_s4_one_folder_per_class(efface: Efface, tiny_sd: Path):
    Path("artists.csv").write_text(ARTISTS)
    command = ("generate", "--classes", "artists.csv", "-n", 3, *QUICK, "--model", tiny_sd)
    answer = efface(*command, "--numbered", "-o", "data/train", "--json").json()
    assert answer["classes"] == {
        name: str(Path("data/train", str(index))) for index, name in enumerate(("Van Gogh", "Picasso", "blank"))
    }
    assert (answer["images"], answer["errors"]) == (9, 0)
    assert [(row["prompt"], row["seed"], row["concept"]) for row in metadata("data/train/0")] == [
        ("art by van gogh", 0, "Van Gogh"),
        ("a house by van gogh", 1, "Van Gogh"),
        ("art by van gogh", 2, "Van Gogh"),
    ]
    assert {row["prompt"] for row in metadata("data/train/2")} == {""}
    assert efface(*command, "--numbered", "--seed", 1000, "-o", "data/eval").code == 0
    assert [row["seed"] for row in metadata("data/eval/1")] == [1000, 1001, 1002]
    pictures = [path.read_bytes() for path in Path("data").rglob("*.png")]
    assert len(pictures) == 18
    assert not {path.read_bytes() for path in Path("data/train").rglob("*.png")} & {
        path.read_bytes() for path in Path("data/eval").rglob("*.png")
    }


def test_s4_folders_named_after_the_classes(efface: Efface, tiny_sd: Path):
    Path("artists.csv").write_text("artist\nVan Gogh\n../Picasso\n")
    command = ("generate", "--classes", "artists.csv", "-n", 2, "--model", tiny_sd, "-o", "named")
    assert efface(*command, *QUICK).code == 0
    assert sorted(path.name for path in Path("named").iterdir()) == ["Picasso", "Van-Gogh"]
    assert [row["prompt"] for row in metadata("named/Van-Gogh")] == ["Van Gogh"] * 2
    first = next(Path("named/Van-Gogh").glob("*.png"))
    first.unlink()
    time = next(Path("named/Picasso").glob("*.png")).stat().st_mtime_ns
    assert efface(*command, *QUICK).code == 0  # resumed
    assert first.exists()
    assert next(Path("named/Picasso").glob("*.png")).stat().st_mtime_ns == time


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        ("artist\nPicasso\n", (), "give the folder for them with -o"),
        ("artist\nPicasso\n", ("a cat", "-o", "out"), "no prompts"),
        ("artist\nPicasso\n", ("--file-names", "case", "-o", "out"), "no --file-names"),
        ("prompt\na cat\n", ("-o", "out"), "no column 'concept'"),
        ("artist\n", ("-o", "out"), "names no class"),
        ("", ("-o", "out"), "no column 'concept'"),
        ("artist\nVan Gogh\nVan-Gogh\n", ("-o", "out"), "share a folder"),
        ("artist\nPicasso\n", ("-o", "artists.csv"), "it is a file"),
        ("artist\nPicasso\n", ("-o", "out", "--steps", 2, "--eraser", "gone"), "gone"),
    ],
)
def test_s4_bad_classes(
    refused: Callable[..., str], tiny_sd: Path, content: str, options: tuple[object, ...], reason: str
):
    Path("artists.csv").write_text(content)
    assert reason in refused("generate", "--classes", "artists.csv", "--model", tiny_sd, *options)


def test_s4_numbers_need_classes(refused: Callable[..., str]):
    assert "give --classes" in refused("generate", "a cat", "--numbered")
    assert "gone.csv" in refused("generate", "--classes", "gone.csv", "-o", "out")
