"""Sizes of published files are rounded down and recorded, and columns that disagree are rejected."""

import logging
from pathlib import Path

import pytest

import efface
from efface.errors import BadFile, BadRequest
from efface.generation import Sampling
from efface.generation.prompts import read_prompt_file
from efface.generation.run import Recipe
from efface.request.record import Request

RECIPE = Recipe("m", "h", "cpu", None, 1.0, Sampling())


def read(folder: Path, text: str, name: str = "p.csv"):
    (folder / name).write_text(text)
    return read_prompt_file(folder / name)


@pytest.mark.parametrize(
    ("columns", "size", "made"),
    [
        ("width,height", (641, 480), (640, 480)),
        ("sd_image_width,sd_image_height", (427, 639), (424, 632)),
        ("width,height", (512, 768), (512, 768)),
        ("width,height", (15, 8), (8, 8)),
    ],
)
def test_sizes_are_rounded_down_to_multiples_of_8_and_recorded(tmp_path, caplog, columns, size, made):
    file = read(tmp_path, f"prompt,{columns}\na cat,{size[0]},{size[1]}\n")
    (job,) = file.jobs
    assert (job.width, job.height) == made
    row = RECIPE.row(job)
    assert row.get("size_in_file") == (None if size == made else f"{size[0]}x{size[1]}")
    with caplog.at_level(logging.INFO):
        file.log()
    assert ("sizes rounded down to multiples of 8: 1" in caplog.text) == (size != made)


def test_a_json_file_is_rounded_too(tmp_path):
    (job,) = read(tmp_path, '[{"prompt": "a cat", "width": 643}]', "p.json").jobs
    assert (job.width, job.height, job.size_in_file) == (640, None, "643xdefault")


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize("number", [0, -8])
def test_a_size_that_is_none_is_an_error(tmp_path, side, number):
    with pytest.raises(BadFile, match=f"line 2: An image cannot have a side of {number} pixels"):
        read(tmp_path, f"prompt,{side}\na cat,{number}\n")


@pytest.mark.parametrize(
    ("header", "row", "reason"),
    [
        ("seed,evaluation_seed", "1,2", "evaluation_seed is 2, but seed is 1"),
        ("sd_seed,seed", "5,6", "seed is 6, but sd_seed is 5"),
        ("evaluation_guidance,sd_guidance_scale", "7.5,7", "evaluation_guidance is 7.5, but sd_guidance_scale is 7"),
        ("width,sd_image_width", "512,768", "width is 512, but sd_image_width is 768"),
        ("seed,sd_seed", f"{2**53},{2**53 + 1}", "but sd_seed is 9007199254740993"),
    ],
)
def test_columns_that_disagree_are_rejected_with_the_line(tmp_path, header, row, reason):
    with pytest.raises(BadFile, match=f"line 2.*{reason}; remove the wrong column"):
        read(tmp_path, f"prompt,{header}\na cat,{row}\n")


@pytest.mark.parametrize(("header", "row"), [("seed,evaluation_seed", "3,3.0"), ("seed,sd_seed", ",4"), ("seed", "5")])
def test_columns_that_agree_or_are_empty_are_read(tmp_path, header, row):
    (job,) = read(tmp_path, f"prompt,{header}\na cat,{row}\n").jobs
    assert job.seed in (3, 4, 5)


def test_two_names_of_one_setting_are_rejected_if_they_disagree():
    with pytest.raises(BadRequest, match="shares and desired_ratios"):
        Request.make(
            ["doctor"], ["man", "woman"], goal="debias", options={"shares": "0.5,0.5", "desired_ratios": "0.1,0.9"}
        )
    assert efface.Request is Request


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", '[{"prompt": "a cat", "seed": 1, "seed": 2}]'),
        ("p.jsonl", '{"prompt": "a cat", "prompt": "a dog"}'),
        ("p.json", '{"prompt": ["a cat"], "prompt": ["a dog"]}'),
    ],
)
def test_a_name_with_two_values_is_rejected(tmp_path, name, text):
    with pytest.raises(BadFile, match=r"line 1: it has two values for '(seed|prompt)'"):
        read(tmp_path, text, name)


def test_a_name_twice_with_one_value_is_read(tmp_path):
    (job,) = read(tmp_path, '[{"prompt": "a cat", "seed": 7, "seed": 7}]', "p.json").jobs
    assert job.seed == 7


@pytest.mark.parametrize(
    "text",
    [
        "concepts: [cat]\npreserve: [dog]\npreserve: [bird]\n",
        "concepts: [{name: cat, guide: dog, guide: bird}]\n",
        "concepts: [cat]\noptions:\n  lamb: 1\n  lamb: 2\n",
        "concepts: [cat]\nmethod: uce\n'method': rece\n",
    ],
)
def test_a_request_with_a_key_twice_is_rejected(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(BadFile, match=r"line \d: it has the key '\w+' twice"):
        Request.from_yaml(tmp_path / "r.yaml")


def test_merge_keys_may_be_overwritten(tmp_path):
    text = "concepts:\n- &one {name: cat, guide: dog}\n- &two {<<: *one, name: bird}\n- {<<: [*two, *one], name: car}\n"
    (tmp_path / "r.yaml").write_text(text)
    request = Request.from_yaml(tmp_path / "r.yaml")
    assert [(one.name, one.guide) for one in request.concepts] == [("cat", "dog"), ("bird", "dog"), ("car", "dog")]
