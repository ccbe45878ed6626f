"""Jobs to a folder of images: resumable, content-addressed, written while the next batch is denoised.

A run that was stopped anywhere and is run again ends with the same bytes as one that never was: batches are cut from
all of its jobs that the cache did not serve, and those that miss an image run whole (see `pictures` for why).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from importlib.metadata import version
from pathlib import Path
from typing import Any

from efface.eraser.eraser import Eraser
from efface.generation.folder import Folder, Image, Memory, cached, file_name, is_kept, keep
from efface.generation.jobs import Job, Sampling
from efface.generation.sampling import sample
from efface.models import Model
from efface.progress import Progress

_NOT_FINITE = "the model gave numbers that are not finite"


@dataclass(frozen=True)
class Recipe:
    """All that decides an image, apart from its job.

    Attributes:
        model: The model's name.
        model_hash: Of its weights.
        precision: Device and floating type.
        eraser: The eraser's hash; `None` for the unedited model.
        strength: Of the eraser.
        sampling: How images are sampled.
    """

    model: str
    model_hash: str
    precision: str
    eraser: str | None
    strength: float
    sampling: Sampling

    @classmethod
    def of(cls, model: Model, sampling: Sampling, eraser: Eraser | None = None, strength: float = 1.0) -> "Recipe":
        """The recipe for a model with an eraser on it."""
        precision = f"{model.device.type} {str(model.dtype).removeprefix('torch.')}"
        return cls(model.name, model.hash, precision, eraser and eraser.hash, strength, sampling)

    def row(self, job: Job) -> dict[str, Any]:
        """The job's row of metadata; `key` is a hash of what decides the pixels, and so not of the label."""
        deciding: dict[str, Any] = {
            "prompt": job.prompt,
            "negative": job.negative or "",
            "seed": job.seed,
            "guidance": float(self.sampling.guidance if job.guidance is None else job.guidance),
            "steps": self.sampling.steps,
            "sampler": self.sampling.sampler,
            "clip_skip": self.sampling.clip_skip,
            "width": job.width,
            "height": job.height,
            "eraser": self.eraser,
            "strength": self.strength if self.eraser else None,
            "model_hash": self.model_hash,
            "precision": self.precision,
            "libraries": _libraries(),
        }
        if job.embedding:
            deciding["embedding"] = job.embedding.hash
        key = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
        named = {"file_name": file_name(job.prompt, job.seed, key), "concept": job.concept, "model": self.model}
        return {**named, **deciding, "key": key}


def generate_images(
    model: Model,
    jobs: Sequence[Job],
    sampling: Sampling | None = None,
    *,
    out: Path | None,
    eraser: Eraser | None = None,
    strength: float = 1.0,
    force: bool = False,
    use_cache: bool = False,
    progress: Progress | None = None,
    what: str = "images",
) -> list[Image]:
    """Generate the images that `out` does not contain yet.

    Args:
        model: What draws.
        jobs: What to draw; equal jobs share one file.
        sampling: How; `None` takes the model's default. Without a `clip_skip`, the text is read as the eraser did.
        out: The folder, in which other images remain; `None` returns the images in memory.
        eraser: What the model shall forget.
        strength: Of the eraser.
        force: Attach the eraser to a model that is not its base.
        use_cache: Look for images in the cache, and keep new ones there.
        progress: Told as images are done.
        what: What to call them there.

    Returns:
        One image a job, in the jobs' order. One that could not be made carries its error.

    Raises:
        BadFile: `out` cannot be written, or is a folder of something else.
    """
    sampling = sampling or Sampling.default(model)
    if eraser and sampling.clip_skip is None:
        sampling = replace(sampling, clip_skip=eraser.request.clip_skip or None)
    recipe = Recipe.of(model, sampling, eraser, strength)
    rows = {row["key"]: (row, job) for row, job in ((recipe.row(job), job) for job in jobs)}
    with Memory() if out is None else Folder(out) as folder:
        served = _from_cache(folder, {key: row for key, (row, _) in rows.items()}) if use_cache else set[str]()
        keys = [key for key in rows if key not in served]
        missing = {index for index, key in enumerate(keys) if key not in folder.rows}
        done = len(rows) - len(missing)
        if progress:
            progress(what, done, len(rows))
        own = [rows[key][1] for key in keys]
        for index, pixels in sample(model, own, sampling, eraser, strength=strength, force=force, wanted=missing):
            row, _ = rows[keys[index]]
            if pixels is None:
                folder.fail(row, _NOT_FINITE)
            else:
                folder.add(row, pixels)
            done += 1
            if progress:
                progress(what, done, len(rows))
        folder.finish(rows)
        if use_cache:
            for key in keys:  # those too that an interrupted run made
                if key in folder.rows:
                    image = folder.image(key)
                    keep(key, image.pixels() if image.path is None else image.path)
        return [folder.image(recipe.row(job)["key"]) for job in jobs]


def _from_cache(folder: Folder | Memory, rows: Mapping[str, dict[str, Any]]) -> set[str]:
    """The keys of which the cache has images, which are in the folder then.

    An interrupted run has kept none of its own yet, so that batches are cut from the same jobs when it goes on.
    """
    served: set[str] = set()
    for key, row in rows.items():
        if key in folder.rows:
            served |= {key} if is_kept(key) else set()
        elif (pixels := cached(key)) is not None:
            folder.add(row, pixels)
            served.add(key)
    folder.settle()
    return served


@once
def _libraries() -> str:
    """Versions of what computes: another one may round differently."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
