"""The provenance of an evaluation: all that decides its numbers, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from efface.eraser.eraser import Eraser
from efface.files import public_name, sha256_of_file
from efface.generation import Sampling
from efface.generation.run import Recipe
from efface.judges import Judge
from efface.judges.shared.questions import is_path
from efface.models import Model
from efface.provenance import versions
from efface.settings import Scalar


def evaluation_record(
    model: Model,
    erasers: Mapping[str, Eraser],
    judge: Judge,
    questions: Sequence[str],
    sampling: Sampling,
    n: int,
    seed: int,
) -> dict[str, Any]:
    """All that decides the numbers, with the versions of the libraries, as JSON.

    Args:
        model: The unedited model.
        erasers: By name.
        judge: The judge.
        questions: The questions that it was asked.
        sampling: How images were generated.
        n: Number of images.
        seed: Seed of the first image.
    """
    settings = asdict(sampling)
    del settings["batch_size"]  # decides nothing but the speed
    if not sampling.eta:
        del settings["eta"]
    return {
        "model": {"name": public_name(model.name), "hash": model.hash},
        "precision": Recipe.of(model, sampling).precision,
        "erasers": {
            name: {
                "hash": e.hash,
                "method": e.method,
                "request": e.request.model_dump(mode="json"),
                **{key: e.provenance[key] for key in ("event", "scenario") if key in e.provenance},
            }
            for name, e in erasers.items()
        },
        "judge": {
            "name": judge.name,
            "version": judge.version,
            "thresholds": {q: judge.threshold(q) for q in questions},
        },
        "sampling": settings,
        "n": n,
        "seed": seed,
        "versions": versions(),
    }


def input_record(options: Mapping[str, Any], prompts: Path | None, data: Path | None) -> dict[str, Any]:
    """The user's inputs by their names, and the hash of the prompts, without any path of the user's disk.

    Args:
        options: The protocol's settings, with defaults.
        prompts: The file of prompts, if one is given.
        data: Pictures or statistics, if they are given.
    """
    record: dict[str, Any] = {"options": {key: _without_folders(value) for key, value in options.items()}}
    if prompts is not None:
        record["prompts"] = {"name": prompts.name, "hash": sha256_of_file(prompts)}
    if data is not None:
        record["data"] = data.name
    return record


def _without_folders(value: Scalar) -> Scalar:
    """A setting in which paths of files are replaced by their names (`sscd:/home/me/a.pt` by `sscd:a.pt`)."""
    if not isinstance(value, str):
        return value
    kind, colon, rest = value.partition(":")
    files = [Path(part).name if is_path(part) else part for part in (rest if colon else kind).split(",")]
    return (kind + colon if colon else "") + ",".join(files)
