"""The evaluation of Concept Ablation in two stages, and with existing images of the unedited model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import Efface, Outcome
from efface import erase, open_model
from efface.generation.run import Recipe
from efface.models.families.sd import StableDiffusion

Evaluate = Callable[..., Outcome]
FILES = ("report.json", "results.csv", "report.html")


@pytest.fixture
def arguments(efface: Efface, tiny_sd: Path, tiny_clip: Path) -> tuple[object, ...]:
    """The evaluation of an eraser of the cat, whose anchor is the dog: 20 images of each model."""
    erase(open_model(tiny_sd), "cat", "dog").save("cat.safetensors")
    scores = ("-s", f"clip={tiny_clip}", "-s", "extractor=emoji-clip", "--judge", f"clip:{tiny_clip}")
    return ("evaluate", "cat.safetensors", "--protocol", "ablation", "--model", tiny_sd, "-n", 2, "--steps", 2, *scores)


def images(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.png")}


def rows(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metadata.jsonl").read_text().splitlines()]


def write_rows(folder: str, several: list[dict[str, Any]]) -> None:
    Path(folder, "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in several))


def test_a10_two_stages_give_the_files_of_one(efface: Efface, arguments: tuple[object, ...]):
    assert efface(*arguments, "-o", "one").code == 0
    first = efface(*arguments, "--stage", "generate", "-o", "two")
    assert first.code == 0
    assert "now run this with --stage judge" in first.out
    assert sorted(path.name for path in Path("two").iterdir()) == ["efface.json", "images"]
    assert images("two") == images("one")
    times = [path.stat().st_mtime_ns for path in sorted(Path("two").rglob("*.png"))]
    assert efface(*arguments, "--stage", "judge", "-o", "two").code == 0
    assert [path.stat().st_mtime_ns for path in sorted(Path("two").rglob("*.png"))] == times
    assert all(Path("two", name).read_bytes() == Path("one", name).read_bytes() for name in FILES)


def test_a10_the_second_stage_runs_on_another_machine(
    efface: Efface, arguments: tuple[object, ...], tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
):
    answer = efface(*arguments, "--stage", "generate", "-o", "first", "--json").json()
    assert (answer["report"], answer["erasers"]["cat"]["metrics"]) == (None, {})
    expected = efface(*arguments, "--stage", "judge", "-o", "first", "--json").json()
    # Elsewhere: another folder of the model, other versions of the libraries, and no denoiser that could run.
    shutil.copytree("first", "second")
    Path("second/report.html").unlink()
    shutil.copytree(tiny_sd, "model")
    monkeypatch.setattr("efface.generation.run._libraries", lambda: "other")
    monkeypatch.setattr(Recipe, "of", elsewhere(Recipe.of))
    monkeypatch.setattr(StableDiffusion, "predict", None)
    moved = tuple("model" if argument == tiny_sd else argument for argument in arguments)
    answer = efface(*moved, "--stage", "judge", "-o", "second", "--json").json()
    assert answer["erasers"] == expected["erasers"]
    assert answer["provenance"]["precision"] == "cpu float32"
    assert images("second") == images("first")


def elsewhere(of: Callable[..., Recipe]) -> Any:
    """The recipes of a machine with another device."""

    def recipe(cls: type[Recipe], *arguments: Any) -> Recipe:
        one = of(*arguments)
        return Recipe(one.model, one.model_hash, "cuda float16", one.eraser, one.strength, one.sampling)

    return classmethod(recipe)


def test_a10_the_second_stage_needs_every_image(
    efface: Efface, refused: Callable[..., str], arguments: tuple[object, ...]
):
    assert efface(*arguments, "--stage", "generate", "-o", "two").code == 0
    saved = rows("two/images/cat")
    write_rows("two/images/cat", saved[1:])
    message = refused(*arguments, "--stage", "judge", "-o", "two")
    assert f"'{saved[0]['prompt']}' with seed {saved[0]['seed']}; generate it first" in message
    write_rows("two/images/cat", saved)
    path = Path("two/images/cat", saved[0]["file_name"])
    path.write_bytes(path.read_bytes()[:50])
    assert path.name in refused(*arguments, "--stage", "judge", "-o", "two")


def test_a10_stages_that_cannot_be_used(refused: Callable[..., str], arguments: tuple[object, ...]):
    assert "there is: generate, judge" in refused(*arguments, "--stage", "evaluation", "-o", "two")
    assert "none has no images to judge: the stage judge needs" in refused(*arguments, "--stage", "judge", "-o", "none")
    Path("i2p.csv").write_text("prompt,categories\na cat,violence\n")
    command = ("evaluate", "cat.safetensors", "--protocol", "i2p", "--prompts", "i2p.csv", *arguments[4:6])
    assert "leave --stage out" in refused(*command, "--judge", "clip", "--stage", "generate", "-o", "two")


def test_a12_existing_images_of_the_unedited_model_are_used(efface: Efface, arguments: tuple[object, ...]):
    assert efface(*arguments, "-o", "one").code == 0
    shutil.copytree("one/images/base", "mine/base")
    assert efface(*arguments, "--base", "mine", "-o", "same").code == 0
    assert all(Path("same", name).read_bytes() == Path("one", name).read_bytes() for name in FILES)
    assert images("same") == images("one")
    negatives("mine/base")  # which could not be generated
    assert efface(*arguments, "--base", "mine", "-o", "other").code == 0
    assert images("other/images/base") == images("mine/base") != images("one/images/base")
    assert images("other/images/cat") == images("one/images/cat")
    kid = [
        json.loads(Path(folder, "report.json").read_text())["erasers"]["cat"]["metrics"]["target_kid"]["value"]
        for folder in ("one", "other")
    ]
    assert kid[0] != kid[1]


def negatives(folder: str) -> None:
    """Invert every image of a folder."""
    from PIL import Image, ImageOps

    for path in Path(folder).glob("*.png"):
        ImageOps.invert(Image.open(path)).save(path, compress_level=4)


def test_a12_missing_images_are_generated(efface: Efface, arguments: tuple[object, ...]):
    assert efface(*arguments, "--stage", "generate", "-o", "one").code == 0
    shutil.copytree("one/images/base", "mine")
    write_rows("mine", rows("mine")[::2])
    before = images("mine")
    assert efface(*arguments, "--base", "mine", "--stage", "generate", "-o", "two").code == 0
    assert images("mine") == before
    assert images("two") == images("one")


def test_a12_images_of_another_program_are_found_by_prompt_and_seed(efface: Efface, arguments: tuple[object, ...]):
    assert efface(*arguments, "--stage", "generate", "-o", "one").code == 0
    shutil.copytree("one/images/base", "mine")
    write_rows("mine", [{name: row[name] for name in ("file_name", "prompt", "seed")} for row in rows("mine")])
    negatives("mine")
    assert efface(*arguments, "--base", "mine", "--stage", "generate", "-o", "two").code == 0
    assert sorted(images("two/images/base").values()) == sorted(images("mine").values())


def test_a12_folders_that_cannot_be_used(efface: Efface, refused: Callable[..., str], arguments: tuple[object, ...]):
    assert efface(*arguments, "--stage", "generate", "-o", "one").code == 0
    command = (*arguments, "-o", "two", "--base")
    assert "missing" in refused(*command, "missing")
    Path("empty").mkdir()
    assert "no images" in refused(*command, "empty")
    assert "eraser" in refused(*command, "one/images/cat")
    assert "steps 2 instead of 3" in refused(*arguments, "--steps", 3, "-o", "two", "--base", "one/images/base")
    shutil.copytree("one/images/base", "mine")
    saved = rows("mine")
    write_rows("mine", [{**row, "seed": 1000 + row["seed"]} for row in saved])
    assert "none of the" in refused(*command, "mine")
    write_rows("mine", [{"file_name": row["file_name"]} for row in saved])
    assert "the prompt and the seed" in refused(*command, "mine")
    write_rows("mine", saved)
    path = Path("mine", saved[0]["file_name"])
    picture = path.read_bytes()
    path.write_bytes(picture[:50])
    assert path.name in refused(*command, "mine")


def test_a14_an_entry_without_prompts_has_those_of_templates(efface: Efface, arguments: tuple[object, ...]):
    entry = {"target": "cat", "anchor": "dog", "hard_negatives": ["horse"]}
    Path("eval.json").write_text(json.dumps({"object": {"cat": entry}}))
    assert efface(*arguments, "--data", "eval.json", "--stage", "generate", "-o", "out").code == 0
    prompts = {row["prompt"] for row in rows("out/images/base")}
    assert {f"a photo of a {name}" for name in ("cat", "dog")} <= prompts
    assert "a horse" in prompts
