"""`efface.generate`: prompts to images, with or without an eraser."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.arguments import model_from, override
from efface.api.erasers import eraser_list, load_eraser
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.api.track_images import check_image_tracker, track_images
from efface.apply.attachment import check_strength
from efface.eraser.base_check import check_base
from efface.eraser.eraser import compose_erasers
from efface.errors import BadInput
from efface.generation import Image, Job, Recipe, Sampling, generate_images, repeated
from efface.generation.jobs import repeated_by_case
from efface.generation.prompts import read_prompt_file
from efface.generation.runs import check_one_run, remove_other_runs

if TYPE_CHECKING:
    from PIL import Image as Pictures

    from efface.api.arguments import DeviceLike, ModelLike
    from efface.api.erasers import EraserLike
    from efface.generation.folder import Row
    from efface.progress import Progress


@dataclass(frozen=True)
class GenerateResult(VerbResult):
    """Generated images.

    Attributes:
        folder: The folder of the images; None for images in memory.
        outcomes: One image per job, in the order of the jobs; an image that could not be generated carries its error.
        seconds: The time that generating took, without opening the model.
    """

    folder: Path | None
    outcomes: tuple[Image, ...]
    seconds: float

    @property
    def images(self) -> list[Pictures.Image]:
        """The images as PIL images, in the order of the jobs; those in a folder are read from it."""
        from PIL import Image as Pictures

        return [Pictures.fromarray(image.pixels()) for image in self.outcomes if image.error is None]

    @property
    def rows(self) -> list[Row]:
        """The metadata of each image in `images`: prompt, seed, guidance, sampler, the eraser's hash and so on."""
        return [image.row for image in self.outcomes if image.error is None]

    @property
    def errors(self) -> int:
        """The number of images that could not be generated."""
        return sum(image.error is not None for image in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """The object that `efface generate --json` prints; images are given by their file names."""
        return {
            "folder": None if self.folder is None else str(self.folder),
            "images": [row["file_name"] for row in self.rows],
            "errors": self.errors,
            "seconds": self.seconds,
        }


@none_is_not_given
def generate(
    prompts: str | Path | Sequence[str | Job],
    *,
    concept_column: str | None = None,
    model: ModelLike = "emoji",
    eraser: EraserLike | Sequence[EraserLike] | None = None,
    strength: float = 1.0,
    n: int = 1,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    file_names: str = "prompt",
    only: str | None = None,
    device: DeviceLike = "auto",
    folder: Path | str | None = None,
    force: bool = False,
    report_to: str | None = None,
    progress: Progress | None = None,
) -> GenerateResult:
    """Generate images. Image i of a prompt has seed `seed + i`, whatever the batch size.

    Example:
        >>> result = efface.generate("a cat in 3d style", eraser="cat.safetensors", n=4)
        >>> result.images[0].show()

    Args:
        prompts: A prompt, several prompts, jobs with a seed and guidance each, or the path of a file: a CSV with a
            prompt column, JSON, or one prompt per line.
        concept_column: The column of a file with the concept of each prompt; `none` for no column. By default, it is
            found by its name or its words.
        model: An open model, a diffusers pipeline, or the name, folder or file of a model.
        eraser: The eraser to attach, its file, or a file that `efface import` reads; several are composed.
        strength: The strength of the eraser: 0 changes nothing, 1 erases fully; edits of text and weights are linear in
            it, beyond 1 and below 0 too.
        n: The number of images per prompt.
        steps: The number of sampling steps; by default the model's.
        guidance: The guidance scale; by default the model's.
        sampler: Name of the sampler: dpm++, ddim, lms or own (the model's); by default the model's.
        eta: The share of DDPM's noise that DDIM adds in each step: 0 (the default) for none, 1 for all of it.
        seed: The seed of the first image of each prompt that has none of its own.
        size: Width and height in pixels, of jobs that have none of their own; by default the model's.
        batch_size: The number of images that are denoised together; changes speed only.
        file_names: How files are named: by "prompt", seed and settings, or by "case": image i of the prompt with the
            case_number 12 is 12_i.png.
        only: The concept whose rows of the file of prompts are used; None uses all rows.
        device: The device to open a model's name on, or an `efface.Runtime`.
        folder: The folder to write images and metadata to. Images that it contains already are not generated again.
            Without a folder, the images stay in memory.
        force: Whether images of another run in the folder are replaced: images with another eraser, model or sampler,
            or of the same prompt and seed with other settings; and whether the eraser may be attached to another model
            than its own.
        report_to: The tracker that logs the images of the folder: wandb.
        progress: The progress callback.

    Raises:
        BadInput: The prompts, the model, the eraser or a setting cannot be used; the message says what to change.
    """
    check_strength(strength)
    check_image_tracker(report_to, None if folder is None else Path(folder))
    file = None
    if isinstance(prompts, Path):
        file = read_prompt_file(prompts, seed, concept_column, only)
        prompts = file.jobs
    elif only is not None:
        raise BadInput("--only selects rows of a file of prompts; give one with --prompts.")
    jobs = jobs_from(prompts, n, seed, size, file_names)
    opened, attached = model_from(model, device), None
    if eraser is not None:
        attached = compose_erasers(*(load_eraser(one, opened) for one in eraser_list(eraser)), force=force)
    if attached:
        check_base(attached, opened, force)
    settings = {"steps": steps, "guidance": guidance, "sampler": sampler, "eta": eta, "batch_size": batch_size}
    sampling = override(Sampling.default(opened), **settings)
    out = None if folder is None else Path(folder)
    if attached and sampling.clip_skip is None:
        sampling = replace(sampling, clip_skip=attached.request.clip_skip or None)
    if out is not None:
        recipe = Recipe.of(opened, sampling, attached, strength)
        (remove_other_runs if force else check_one_run)(out, [recipe.row(job) for job in jobs])
    started = time.perf_counter()
    images = generate_images(
        opened, jobs, sampling, out=out, eraser=attached, strength=strength, force=force, progress=progress
    )
    if file:
        file.log()
    seconds = time.perf_counter() - started
    if report_to is not None and out is not None:
        track_images(images, out.name)
    return GenerateResult(out, tuple(images), seconds)


def jobs_from(
    prompts: str | Sequence[str | Job], n: int, seed: int, size: tuple[int, int] | None, file_names: str
) -> list[Job]:
    """One job per image; the arguments are those of `generate`.

    Args:
        prompts: Prompts or jobs.
        n: The number of images per prompt.
        seed: The seed of the first image of each prompt that has none of its own.
        size: Width and height in pixels, of jobs that have none of their own.
        file_names: "prompt" or "case".

    Raises:
        BadInput: There is no prompt, or an argument cannot be used.
    """
    if file_names not in ("prompt", "case"):
        raise BadInput(f"Unknown file names '{file_names}': write prompt, or case for the column case_number.")
    several = [prompts] if isinstance(prompts, str) else prompts
    jobs = [job if isinstance(job, Job) else Job(job, seed) for job in several]
    if not jobs:
        raise BadInput("Nothing to generate: give a prompt.")
    if size is not None:
        width, height = size
        jobs = [job if job.width or job.height else replace(job, width=width, height=height) for job in jobs]
    return repeated_by_case(jobs, n) if file_names == "case" else repeated(jobs, n)
