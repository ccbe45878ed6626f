"""The U&ME challenge entry: many concepts and many processes, with the effect that its documentation states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
