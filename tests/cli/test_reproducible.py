"""The same command gives the same numbers; what does not decide them does not change them; nothing is drawn twice."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import efface as package
import efface.generation.run as generating
from efface.cli.run import run
from efface.generation import Job

COMMAND = ("-n", 8, "--steps", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an eraser, the evaluation `one` of it, and the cache that this filled; do not write into it."""
    folder = tmp_path_factory.mktemp("first")
    eraser = folder / "cat.safetensors"
    package.erase(package.open_model("emoji"), "cat", "dog").save(eraser)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFACE_CACHE", str(folder / "cache"))
        assert run([str(word) for word in ("evaluate", eraser, *COMMAND, "-o", folder / "one")]) == 0
    return folder


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def test_the_same_command_gives_the_same_numbers_to_the_bit(efface, first):
    assert efface("evaluate", first / "cat.safetensors", *COMMAND, "-o", "two").code == 0
    assert (first / "one" / "report.json").read_bytes() == Path("two/report.json").read_bytes()
    assert report(first / "one")["erasers"]["cat"]["attacks"].keys() == {"random_prefix", "embedding_shift"}
    pictures = list((first / "one").rglob("*.png"))
    assert pictures
    for path in pictures:
        assert path.read_bytes() == Path("two", path.relative_to(first / "one")).read_bytes()


def test_another_batch_size_gives_the_same_verdicts(efface, first):
    assert efface("evaluate", first / "cat.safetensors", *COMMAND, "--batch-size", 5, "-o", "by-5").code == 0
    one, other = report(first / "one"), report(Path("by-5"))
    assert one["provenance"] == other["provenance"]
    assert one["erasers"] == other["erasers"]
    for name, shots in one["shots"].items():
        assert [(s["found"], s["saw"], s["went"]) for s in shots] == [
            (s["found"], s["saw"], s["went"]) for s in other["shots"][name]
        ]


def test_a_second_eraser_draws_no_image_of_the_base_again(efface, first, monkeypatch):
    monkeypatch.setenv("EFFACE_CACHE", shutil.copytree(first / "cache", "filled"))
    package.erase(package.open_model("emoji"), "cat", "car").save("other.safetensors")
    drawn: list[Job] = []
    real = generating.sample

    def watched(model: Any, jobs: Sequence[Job], sampling: Any, eraser: Any, **options: Any) -> Iterator[Any]:
        drawn.extend(jobs if eraser is None else ())
        return real(model, jobs, sampling, eraser, **options)

    monkeypatch.setattr(generating, "sample", watched)
    assert efface("evaluate", "other.safetensors", *COMMAND, "-o", "two").code == 0
    seen = {(shot["prompt"], shot["seed"]) for shot in report(first / "one")["shots"]["base"]}
    assert not [job for job in drawn if (job.prompt, job.seed) in seen and job.embedding is None]
    # Prompts that an attack found against this eraser alone are new to the base, too.
    assert len(drawn) <= 2
