"""Item 9: a folder has the images of one run, or the answer reports that it does not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import Efface


@pytest.fixture
def drawn(efface: Efface, tiny_sd: Path) -> Callable[..., int]:
    """Generates into the folder `out`, and returns the exit code."""
    assert efface("erase", "cat", "--to", "dog", "--model", tiny_sd, "-o", "cat.safetensors").code == 0

    def command(*arguments: object) -> int:
        return efface("generate", "a cat", "-n", 2, "--model", tiny_sd, "-o", "out", *arguments).code

    return command


def rows() -> list[dict[str, object]]:
    return [json.loads(line) for line in Path("out/metadata.jsonl").read_text().splitlines()]


OTHERS = (
    ("--steps", 2, "--eraser", "cat.safetensors"),
    ("--steps", 2, "--eraser", "cat.safetensors", "--strength", 0.5),
    ("--steps", 3),
    ("--steps", 2, "--sampler", "ddim"),
)


@pytest.mark.parametrize("other", OTHERS)
def test_another_run_is_rejected_and_replaces_with_force(drawn: Callable[..., int], other: tuple[object, ...]) -> None:
    assert drawn("--steps", 2) == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    assert drawn(*other) == 2
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    assert drawn(*other, "--force") == 0
    assert len(rows()) == len(list(Path("out").glob("*.png"))) == 2
    assert not {row["key"] for row in rows()} & {json.loads(line)["key"] for line in _lines(before)}
    assert drawn(*other) == 0, "the same run again finds its images"


def _lines(files: dict[Path, bytes]) -> list[bytes]:
    return files[Path("out/metadata.jsonl")].splitlines()


def test_other_prompts_and_seeds_of_one_run_share_a_folder(drawn: Callable[..., int]) -> None:
    assert drawn("--steps", 2) == 0
    assert drawn("--steps", 2, "--seed", 7) == 0
    assert drawn("--steps", 2, "--guidance", 3) == 0
    assert len(rows()) == 6


def test_a_judge_reports_several_runs(drawn: Callable[..., int], efface: Efface) -> None:
    assert drawn("--steps", 2) == 0
    one = efface("judge", "out", "--judge", "pixels", "-q", next(Path("out").glob("*.png")), "--json")
    assert one.json()["runs"] == 1
    assert "runs" not in one.err
    first = rows()
    assert drawn("--steps", 3, "--force") == 0
    with Path("out/metadata.jsonl").open("a") as file:
        file.writelines(json.dumps({**row, "file_name": rows()[0]["file_name"]}) + "\n" for row in first)
    two = efface("judge", "out", "--judge", "pixels", "-q", next(Path("out").glob("*.png")), "--json", "--force")
    assert two.json()["runs"] == 2
    assert "images of 2 runs" in two.err
