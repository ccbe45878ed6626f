"""Item 9: a folder has the images of one run, or the answer reports that it does not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import efface as library
from command_line import Efface
from efface import BadInput
from efface.generation import Job


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
    ("--steps", 2, "--guidance", 3),
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
    assert drawn("--steps", 2, "--seed", 20, "--guidance", 3) == 0
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


@pytest.mark.parametrize(
    "job", [Job("a cat", 0, negative="a dog"), Job("a cat", 0, guidance=2.0), Job("a cat", 0, 5.0)]
)
def test_one_image_with_other_settings(tiny_sd: Path, tmp_path: Path, job: Job) -> None:
    options: dict[str, Any] = {"model": str(tiny_sd), "steps": 1, "folder": tmp_path / "out"}
    library.generate(["a cat", "a dog"], **options)
    with pytest.raises(BadInput, match=r"images of another run, with (negative|guidance) "):
        library.generate(["a horse", job], **options)
    library.generate(["a horse", job], **options, force=True)
    stored = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert sorted(row["prompt"] for row in stored) == ["a cat", "a dog", "a horse"]


def test_several_settings_of_one_image_in_one_run(tiny_sd: Path, tmp_path: Path) -> None:
    jobs = [Job("a cat", 0, guidance) for guidance in (2.0, 3.0)]
    for _ in range(2):
        result = library.generate(jobs, model=str(tiny_sd), steps=1, folder=tmp_path / "out")
        assert len(result.images) == 2


def test_an_image_in_two_rows_counts_once(drawn: Callable[..., int], efface: Efface) -> None:
    assert drawn("--steps", 1) == 0
    path = Path("out/metadata.jsonl")
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    counted = efface("judge", "out", "-q", "cat", "--json").json()["questions"]["cat"]
    assert counted["yes"] + counted["no"] + counted["undecided"] + counted["broken"] == 2
