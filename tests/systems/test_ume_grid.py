"""The U&ME challenge entry: unedited and edited images side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from command_line import Efface
from efface.generation import read_picture


def test_u5_a_row_of_the_unedited_model_and_a_row_per_eraser(efface: Efface):
    for name, guide in (("cat", "dog"), ("dog", "cat")):
        assert efface("erase", name, "--to", guide, "-o", f"{name}.safetensors").code == 0
    erasers = ("--eraser", "cat.safetensors", "--eraser", "dog.safetensors")
    command = ("generate", "a cat", "a dog", "-n", 3, "--steps", 4, *erasers, "-o", "out", "--grid", "grid.png")
    answer = efface(*command, "--json").json()
    assert {name: len(images) for name, images in answer["rows"].items()} == {"base": 6, "cat": 6, "dog": 6}

    sheet = np.asarray(Image.open("grid.png").convert("RGB"))
    rows = {name: json_rows(Path("out", name)) for name in answer["rows"]}
    assert [[(row["prompt"], row["seed"]) for row in one] for one in rows.values()] == 3 * [
        [(prompt, seed) for prompt in ("a cat", "a dog") for seed in range(3)]
    ]
    y = 4
    for prompt in range(2):
        y += 22
        for name, images in answer["rows"].items():
            for column in range(3):
                picture = Image.fromarray(read_picture(Path("out", name, images[3 * prompt + column])))
                scaled = np.asarray(picture.resize((96, 96), Image.Resampling.LANCZOS))
                x = 64 + column * 100
                assert (sheet[y : y + 96, x : x + 96] == scaled).all()
            y += 100
        y += 4
    assert sheet.shape[:2] == (y + 0, 64 + 3 * 100 + 4)

    judged = efface("judge", "out/base", "-q", "cat", "--json").json()["questions"]["cat"]["yes"]
    assert judged > efface("judge", "out/cat", "-q", "cat", "--json").json()["questions"]["cat"]["yes"]
    again = efface(*command)
    assert (again.code, "exists already" in again.out) == (0, True)
    assert "already exists" in efface(*command, "--seed", 1).err
    assert efface(*command, "--force").code == 0


def json_rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_u5_input_that_cannot_be_used(refused: Callable[..., str]):
    assert "ends in .png" in refused("generate", "a cat", "--grid", "grid.jpg")
    assert "does not exist" in refused("generate", "a cat", "--grid", "nowhere/grid.png")
    assert "There is no eraser file" in refused("generate", "a cat", "--grid", "grid.png", "--eraser", "nowhere")
    assert "too large" in refused("generate", "a cat", "-n", 2001, "--grid", "grid.png")
    assert "Give prompts" in refused("generate", "--grid", "grid.png")
    assert "--grid" in refused("generate", "--each-eraser", "e", "--prompts", "p.csv", "--grid", "grid.png")
