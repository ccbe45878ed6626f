"""The same command gives the same numbers; what does not decide them does not change them; nothing is drawn twice."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import efface as package
import efface.generation.run as generating
from efface.generation import Job

COMMAND = ("-n", 8, "--steps", 3, "--device", "cpu")


@pytest.fixture
def cat(efface) -> Path:
    path = Path("cat.safetensors")
    package.erase(package.open_model("emoji"), "cat", "dog").save(path)
    return path


def report(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "report.json").read_text())


def test_the_same_command_gives_the_same_numbers_to_the_bit(efface, cat, monkeypatch):
    for folder in ("one", "two"):
        monkeypatch.setenv("EFFACE_CACHE", f"cache-{folder}")
        assert efface("evaluate", cat, *COMMAND, "-o", folder).code == 0
    assert Path("one/report.json").read_bytes() == Path("two/report.json").read_bytes()
    assert report("one")["erasers"]["cat"]["attacks"].keys() == {"random_prefix", "embedding_shift"}
    for path in Path("one").rglob("*.png"):
        assert path.read_bytes() == Path("two", *path.parts[1:]).read_bytes()


def test_another_batch_size_gives_the_same_verdicts(efface, cat, monkeypatch):
    for size in (64, 5):
        monkeypatch.setenv("EFFACE_CACHE", f"cache-{size}")
        assert efface("evaluate", cat, *COMMAND, "--batch-size", size, "-o", f"by-{size}").code == 0
    one, other = (report(f"by-{size}") for size in (64, 5))
    assert one["provenance"] == other["provenance"]
    assert one["erasers"] == other["erasers"]
    for name, shots in one["shots"].items():
        assert [(s["found"], s["saw"], s["went"]) for s in shots] == [
            (s["found"], s["saw"], s["went"]) for s in other["shots"][name]
        ]


def test_a_second_eraser_draws_no_image_of_the_base_again(efface, cat, monkeypatch):
    assert efface("evaluate", cat, *COMMAND, "-o", "one").code == 0
    package.erase(package.open_model("emoji"), "cat", "car").save("other.safetensors")
    drawn: list[Job] = []
    real = generating.sample

    def watched(model: Any, jobs: Sequence[Job], sampling: Any, eraser: Any, **options: Any) -> Iterator[Any]:
        drawn.extend(jobs if eraser is None else ())
        return real(model, jobs, sampling, eraser, **options)

    monkeypatch.setattr(generating, "sample", watched)
    assert efface("evaluate", "other.safetensors", *COMMAND, "-o", "two").code == 0
    seen = {(shot["prompt"], shot["seed"]) for shot in report("one")["shots"]["base"]}
    assert not [job for job in drawn if (job.prompt, job.seed) in seen and job.embedding is None]
    # Prompts that an attack found against this eraser alone are new to the base, too.
    assert len(drawn) <= 2
