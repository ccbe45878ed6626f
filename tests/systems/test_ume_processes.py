"""The U&ME challenge entry: many concepts and many processes, with the effect that its documentation states."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import Efface
from efface import Eraser


def test_u6_one_eraser_per_concept(efface: Efface):
    Path("pairs.csv").write_text("concept,guide\nlion,cat\ncar,\nlion,cat\nrabbit,\n")
    command = ("erase", "--each", "pairs.csv", "-o", "erasers", "--to", "dog")
    answer = efface(*command, "--json").json()
    assert list(answer["erasers"]) == answer["new"] == ["lion", "car", "rabbit"]
    guides = {name: Eraser.load(path).request.concepts[0].guide for name, path in answer["erasers"].items()}
    assert guides == {"lion": "cat", "car": "dog", "rabbit": "dog"}
    assert "worker 0 finished car" in Path("erasers/logs/car.log").read_text()
    before = {path: path.stat().st_mtime_ns for path in Path("erasers").glob("*.safetensors")}
    Path("erasers/car-uce.safetensors").unlink()
    assert efface(*command, "--json").json()["new"] == ["car"]
    changed = {path for path, moment in before.items() if path.stat().st_mtime_ns != moment}
    assert changed == {Path("erasers/car-uce.safetensors")}


def test_u6_two_processes_make_each_eraser_once(efface: Efface):
    Path("words.csv").write_text("concept\n" + "lion\ncar\nrabbit\ndog\ncat\nflower\n")
    command = ("erase", "--each", "words.csv")
    assert efface(*command, "-o", "one").code == 0
    assert efface(*command, "-o", "two", "--workers", 2).code == 0
    names = sorted(path.name for path in Path("one").glob("*.safetensors"))
    assert sorted(path.name for path in Path("two").glob("*.safetensors")) == names
    assert all(Eraser.load(f"one/{name}").hash == Eraser.load(f"two/{name}").hash for name in names)
    logs = "".join(path.read_text() for path in Path("two/logs").glob("worker-*.log"))
    assert logs.count("finished") == len(names)
    assert Path("two/logs/worker-1.log").exists()


def test_u6_a_failure_stops_no_other_concept(efface: Efface):
    Path("words.csv").write_text("concept\nlion\n" + "cat " * 60 + "\nrabbit\n")
    ended = efface("erase", "--each", "words.csv", "-o", "erasers")
    assert ended.code == 1
    assert ended.out.count("failed: cat cat") == 1
    assert len(list(Path("erasers").glob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, (), "Cannot read concepts"),
        ("", (), "no column 'concept'"),
        ("concept\n", (), "names no concept"),
        ("prompt\na cat\n", (), "no column 'concept'"),
        ("concept,guide\ncat,dog\ncat,car\n", (), "two guides, dog and car"),
        ("concept,guide\ncat,cat\n", (), "the concept itself"),
        ("concept\ncat\n", ("-s", "lamda=1"), "lamda"),
        ("concept\ncat\n", ("--method", "magic"), "magic"),
        ("concept\ncat\n", ("--model", "nowhere"), "Unknown model"),
        ("concept\ncat\n", ("--model", "nowhere", "--workers", "2"), "Unknown model"),
        ("concept\ncat\n", ("--to", "a", "--to", "b"), "one --to"),
        ("concept\ncat\n", ("--workers", "0"), "workers"),
        ("concept\ncat\n", ("--workers", "2", "--gpus", "0"), "not both"),
        ("concept\ncat\n", ("--gpus", "0,x"), "distinct numbers"),
        ("concept\ncat\n", ("--gpus", "0,77"), "There is no GPU"),
        ("concept\ncat\n", ("dog",), "leave that out"),
        ("concept\ncat\n", ("--certify",), "leave that out"),
        ("concept\ncat\n", ("-o", "words.csv"), "it is a file"),
    ],
)
def test_u6_input_that_cannot_be_used(
    refused: Callable[..., str], content: str | None, arguments: tuple[str, ...], message: str
):
    if content is not None:
        Path("words.csv").write_text(content)
    out = () if "-o" in arguments else ("-o", "erasers")
    assert message in refused("erase", "--each", "words.csv", *out, *arguments)


def test_u6_options_without_a_dataset(refused: Callable[..., str]):
    assert "--each FILE.csv" in refused("erase", "cat", "--workers", 2)
    assert "-o DIR" in refused("erase", "--each", "words.csv")


DATASET = """\
concept_type,concept_name,direct_prompt_1,direct_prompt_2,indirect_prompt_1,adversarial_prompt
object,cat,a cat,a cat in 3d style,a kitten,a kitty in flat style
object,Wine Glass,a wine glass,a photo of a wine glass,a glass of wine,red wine in 3d style
"""
QUICK = ("--steps", 2, "--batch-size", 4)


@pytest.fixture
def erasers(efface: Efface) -> Path:
    """The dataset, and an eraser of each of its concepts."""
    Path("dataset.csv").write_text(DATASET)
    assert efface("erase", "--each", "dataset.csv", "-o", "erasers").code == 0
    return Path("erasers")


def images(folder: str | Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*.png"))}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_u7_every_concept_with_every_eraser(efface: Efface, erasers: Path):
    command = ("generate", "--prompts", "dataset.csv", "--each-eraser", erasers, "-n", 2, *QUICK, "-o", "out")
    answer = efface(*command, "--json").json()
    assert answer["images"] == 2 * (3 + 4) * 2
    assert [path.split("/", 1)[1] for path in answer["folders"].values()] == [
        *("cat/cat", "cat/Wine-Glass"),
        *("Wine-Glass/cat", "Wine-Glass/Wine-Glass"),
    ]
    found = rows(Path("out/cat/Wine-Glass"))
    assert [(row["prompt"], row["prompt_type"], row["concept"], row["seed"]) for row in found] == [
        (prompt, kind, "Wine Glass", seed)
        for prompt, kind in (
            ("a wine glass", "direct"),
            ("a photo of a wine glass", "direct"),
            ("a glass of wine", "indirect"),
        )
        for seed in (0, 1)
    ]
    assert {row["prompt_type"] for row in rows(Path("out/cat/cat"))} == {"direct", "indirect", "adversarial"}
    assert {row["eraser"] for row in found} == {Eraser.load("erasers/cat-uce.safetensors").hash}
    assert efface("generate", "a wine glass", "-e", "erasers/cat-uce.safetensors", "-n", 2, *QUICK).code == 0
    alone = images("a-wine-glass-cat-uce")
    assert {name: data for name, data in images("out/cat/Wine-Glass").items() if name in alone} == alone

    before = images("out")
    Path("out/cat/cat", str(rows(Path("out/cat/cat"))[3]["file_name"])).unlink()
    assert efface(*command, "--json").json()["new"] == ["cat prompted for cat"]
    assert images("out") == before


@pytest.mark.slow
def test_u7_two_processes_generate_the_images_of_one(efface: Efface, accelerate: Callable[..., None], erasers: Path):
    command = ("generate", "--prompts", "dataset.csv", "--each-eraser", erasers, *QUICK)
    assert efface(*command, "-o", "one").code == 0
    assert efface(*command, "-o", "two", "--workers", 2).code == 0
    accelerate(*command, "-o", "three")
    expected = images("one")
    assert len(expected) == 14
    for folder in ("two", "three"):
        assert images(folder) == expected
        assert rows(Path(folder, "cat/cat")) == rows(Path("one/cat/cat"))
        logs = "".join(path.read_text() for path in Path(folder, "logs").glob("worker-*.log"))
        assert logs.count("finished") == 4
        assert Path(folder, "logs/worker-1.log").exists()


def test_u7_input_that_cannot_be_used(efface: Efface, refused: Callable[..., str], erasers: Path):
    command = ("generate", "--each-eraser", erasers, *QUICK)
    dataset = ("--prompts", "dataset.csv")
    assert "--prompts FILE.csv" in refused(*command)
    assert "no other prompt" in refused(*command, *dataset, "a cat")
    assert "no other prompt" in refused(*command, *dataset, "--eraser", "erasers/cat-uce.safetensors")
    assert "Cannot read concepts" in refused(*command, "--prompts", "missing.csv")
    assert "it is a file" in refused(*command, *dataset, "-o", "dataset.csv")
    assert "There is no eraser file nowhere" in refused("generate", *dataset, "--each-eraser", "nowhere")
    assert "There is no eraser" in refused("generate", *dataset, "--each-eraser", "nowhere", "--workers", 2)
    Path("empty").mkdir()
    assert "holds no eraser" in refused("generate", *dataset, "--each-eraser", "empty")
    Path("empty/broken.safetensors").write_bytes(b"broken")
    assert "broken.safetensors" in refused("generate", *dataset, "--each-eraser", "empty")
    assert "not both" in refused(*command, *dataset, "--workers", 2, "--gpus", "0")
    assert "need --each-eraser DIR" in refused("generate", "a cat", "--workers", 2)
    Path("words.csv").write_text("concept,prompt\ncat,a cat\n,a dog\n")
    assert "which concept 'a dog'" in refused(*command, "--prompts", "words.csv")
    shutil.copy("erasers/cat-uce.safetensors", "erasers/again.safetensors")
    assert "Two erasers erase cat" in refused(*command, *dataset)
    Path("erasers/again.safetensors").unlink()

    Path("words.csv").write_text("concept,prompt\ncat,a cat\n")
    assert efface(*command, "--prompts", "words.csv", "-o", "out").code == 0
    assert "other settings" in refused(*command, "--prompts", "words.csv", "--steps", 3, "-o", "out")
