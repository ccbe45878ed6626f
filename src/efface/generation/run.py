"""Jobs to a folder of images: resumable, content-addressed, and written while the next batch is denoised.

A resumed run ends with the same bytes as an uninterrupted one. For this, the batches are always formed from the same
jobs, namely all that are not in the cache, and a batch with a missing image is computed completely: images of another
batch may differ in the last bit (see `efface.generation.sampling.sample`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from importlib.metadata import version
from pathlib import Path
from typing import Any

from efface.eraser.eraser import Eraser
from efface.errors import BadFile
from efface.files import public_name
from efface.generation.folder import (
    FolderWriter,
    Image,
    MemoryWriter,
    Row,
    cache_image,
    cached_image,
    file_name,
    is_cached,
)
from efface.generation.jobs import Job, Sampling
from efface.generation.sampling import image_size, sample
from efface.generation.stored_images import StoredImages
from efface.models import Model
from efface.progress import Progress

_NOT_FINITE = "the model gave numbers that are not finite"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an image, except its job.

    Attributes:
        model: The model's name.
        model_hash: The hash of the model's weights.
        precision: Device, floating-point type, and options of the runtime that can change numbers.
        eraser: The eraser's hash. `None` for the unedited model.
        strength: The eraser's strength.
        sampling: The sampling settings.
    """

    model: str
    model_hash: str
    precision: str
    eraser: str | None
    strength: float
    sampling: Sampling

    @classmethod
    def of(cls, model: Model, sampling: Sampling, eraser: Eraser | None = None, strength: float = 1.0) -> Recipe:
        """The recipe for a model with an eraser attached.

        Args:
            model: The model.
            sampling: The sampling settings. Without a `clip_skip`, that of the eraser's request applies.
            eraser: The eraser. `None` for the unedited model.
            strength: The eraser's strength.
        """
        if eraser and sampling.clip_skip is None:
            sampling = replace(sampling, clip_skip=eraser.request.clip_skip or None)
        options = model.runtime.facts(model.dtype)
        words = [model.device.type, options.pop("dtype", "float32"), *options.values()]
        precision = " ".join("compiled" if word is True else word for word in words)
        return cls(public_name(model.name), model.hash, precision, eraser and eraser.hash, strength, sampling)

    def row(self, job: Job) -> dict[str, Any]:
        """The metadata row of a job. Its `key` is a hash of all values that decide the pixels, so not of the label."""
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
        if self.sampling.eta:
            deciding["eta"] = self.sampling.eta
        if job.embedding:
            deciding["embedding"] = job.embedding.hash
        if job.file_name:
            deciding["file_name"] = job.file_name
        key = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
        named = {"file_name": file_name(job.prompt, job.seed, key), "concept": job.concept, "model": self.model}
        if job.prompt_type:
            named["prompt_type"] = job.prompt_type
        if job.size_in_file:
            named["size_in_file"] = job.size_in_file
        case = {} if job.case_number is None else {"case_number": job.case_number}
        return {**named, **case, **deciding, "key": key}


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
    existing: StoredImages | None = None,
    progress: Progress | None = None,
    what: str = "images",
) -> list[Image]:
    """Generate the images that are not in the folder yet.

    Args:
        model: The model.
        jobs: The images to make; equal jobs share one file.
        sampling: The sampling settings. `None` means the model's default. Without a `clip_skip`, that of the eraser's
            request applies.
        out: The folder; other images in it are not changed. `None` means to return images in memory.
        eraser: The eraser to attach to the model.
        strength: The eraser's strength.
        force: Whether the eraser may be attached to a model that is not its base. It does not replace images.
        use_cache: Whether to take images from the cache, and to store new ones there.
        existing: Images that are copied to `out` and not generated.
        progress: The progress callback, called after each image.
        what: The name of the work for the progress callback.

    Returns:
        One image per job, in the jobs' order. An image that could not be made has an error.

    Raises:
        BadFile: `out` cannot be written, is a folder with other content, or has an image with the name of a new one;
            or an existing image cannot be used.
    """
    recipe = Recipe.of(model, sampling or Sampling.default(model), eraser, strength)
    available = {job: image for job in jobs if existing and (image := find_image(existing, model, recipe, job))}
    described = {job: available[job].row if job in available else recipe.row(job) for job in jobs}
    rows = {row["key"]: (row, job) for job, row in described.items()}
    with MemoryWriter() if out is None else FolderWriter(out) as folder:
        served = _from_existing(folder, available.values())
        if use_cache:
            served |= _from_cache(folder, {key: row for key, (row, _) in rows.items() if key not in served})
        keys = [key for key in rows if key not in served]
        missing = {index for index, key in enumerate(keys) if key not in folder.rows}
        _check_names(folder, {key: row for key, (row, _) in rows.items()})
        done = len(rows) - len(missing)
        if progress:
            progress(what, done, len(rows))
        uncached = [rows[key][1] for key in keys]
        settings = recipe.sampling
        for index, pixels in sample(model, uncached, settings, eraser, strength=strength, force=force, wanted=missing):
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
            for key in keys:  # images of an interrupted run too
                if key in folder.rows:
                    image = folder.image(key)
                    cache_image(key, image.pixels() if image.path is None else image.path)
        return [folder.image(described[job]["key"]) for job in jobs]


def find_image(existing: StoredImages, model: Model, recipe: Recipe, job: Job) -> Image | None:
    """The existing image of a job; None if it is not there.

    Args:
        existing: The images.
        model: The model.
        recipe: The recipe of the image.
        job: The job.

    Raises:
        BadFile: An existing image cannot be used; see `StoredImages.find`.
    """
    return existing.find(recipe.row(job), image_size(model, job) if model.call_parameters is None else None)


def _from_existing(folder: FolderWriter | MemoryWriter, images: Iterable[Image]) -> set[str]:
    """Copy existing images, or their errors, to the folder, and return their keys."""
    served: set[str] = set()
    for image in images:
        key = str(image.row["key"])
        served.add(key)
        if image.error is not None:
            folder.fail(image.row, image.error)
        elif key not in folder.rows:
            folder.add(image.row, image.pixels())
    folder.settle()
    return served


def _check_names(folder: FolderWriter | MemoryWriter, rows: Mapping[str, Row]) -> None:
    """Refuse to replace an image that has the same name and other settings.

    Raises:
        BadFile: The folder has such an image.
    """
    keys = {str(row["file_name"]): key for key, row in folder.rows.items()}
    for key, row in rows.items():
        if keys.get(row["file_name"], key) != key:
            raise BadFile(f"{row['file_name']} was generated with other settings; choose another folder.")


def _from_cache(folder: FolderWriter | MemoryWriter, rows: Mapping[str, Row]) -> set[str]:
    """Copy images from the cache to the folder, and return the keys that the cache has.

    A run stores its images in the cache at its end only, so that a resumed run forms batches from the same jobs.
    """
    served: set[str] = set()
    for key, row in rows.items():
        if key in folder.rows:
            served |= {key} if is_cached(key) else set()
        elif (pixels := cached_image(key)) is not None:
            folder.add(row, pixels)
            served.add(key)
    folder.settle()
    return served


@once
def _libraries() -> str:
    """Versions of the libraries that compute the images: another version may round differently."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
