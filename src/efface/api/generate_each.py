"""`efface.generate_each`: the prompts of a dataset with each of several erasers, by any number of processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from efface.api.arguments import model_from, override
from efface.api.erasers import load_eraser, named_sources
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.apply.attachment import check_strength
from efface.crew import Crew
from efface.eraser.base_check import check_base
from efface.errors import BadFile, BadInput
from efface.generation import Job, Sampling, generate_images, repeated
from efface.generation.dataset import prompts_by_concept
from efface.generation.folder import METADATA, folder_name
from efface.generation.rows import read_image_rows
from efface.generation.run import Recipe
from efface.request.names import name_key
from efface.workers import LOGS, Worker, share_items

if TYPE_CHECKING:
    from efface.api.arguments import DeviceLike, ModelLike
    from efface.api.erasers import EraserLike
    from efface.eraser.eraser import Eraser
    from efface.models import Model
    from efface.progress import Progress

#: Between the concepts of an eraser of several concepts, in the name of its folder.
JOINT = "+"


@dataclass(frozen=True)
class GenerateEachResult(VerbResult):
    """Images of a dataset, generated with several erasers.

    Attributes:
        folder: Their folder: `EDITED CONCEPT/PROMPTED CONCEPT/`, with the logs in its folder `logs`.
        folders: The folders of images, by name.
        images: The number of images in these folders, of this call's prompts.
        new: Folders that were not complete before this run.
        failures: The error of each folder that could not be completed, by name.
        seconds: The time of the call, without opening the model.
    """

    folder: Path
    folders: dict[str, Path]
    images: int
    new: tuple[str, ...]
    failures: dict[str, str]
    seconds: float


@none_is_not_given
def generate_each(
    dataset: Path | str,
    erasers: EraserLike | Sequence[EraserLike],
    folder: Path | str,
    *,
    model: ModelLike = "emoji",
    n: int = 1,
    concept_column: str | None = None,
    strength: float = 1.0,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: DeviceLike = "auto",
    force: bool = False,
    crew: Crew | None = None,
    progress: Progress | None = None,
) -> GenerateEachResult:
    """Generate the prompts of every concept of a dataset with every eraser. Existing images are not generated again.

    The images of an eraser and a concept are in `folder/EDITED CONCEPT/PROMPTED CONCEPT`: those of the direct and
    indirect prompts and, for the edited concept itself, of the adversarial prompts. Their metadata has the concept and
    the type of the prompt.

    Any number of processes can call this with the same folder: each takes the next folder that no other process works
    on, and returns when all are complete. The images do not depend on the number of processes.

    Example:
        >>> efface.generate_each("challenge.csv", "erasers", "images", n=10).failures
        {}

    Args:
        dataset: A CSV in the challenge's columns, or with the columns `concept` and `prompt`.
        erasers: The erasers, each attached alone; files, folders of files, or patterns.
        folder: The folder of the images, created if it is missing.
        model: An open model, a diffusers pipeline, or the name, folder or file of a model.
        n: The number of images per prompt.
        concept_column: The column of concepts. By default, it is found by its name or its words.
        strength: The strength of the erasers: 0 changes nothing, 1 erases fully.
        steps: The number of sampling steps; by default the model's.
        guidance: The guidance scale; by default the model's.
        sampler: Name of the sampler: dpm++, ddim, lms or own (the model's own); by default the model's.
        eta: The share of DDPM's noise that DDIM adds in each step.
        seed: The seed of the first image of each prompt that has none in the file.
        batch_size: The number of images that are denoised together; changes speed only.
        device: The device to open a model's name on, or an `efface.Runtime`.
        force: Whether the erasers may be attached to another model than their own.
        crew: The processes that share the work; by default this one, and those that a launcher started.
        progress: The progress callback; it covers the folders of all processes.

    Raises:
        BadInput: The dataset, an eraser, a setting or the folder cannot be used; the message says what to change.
    """
    check_strength(strength)
    folder, crew = Path(folder), crew or Crew(Worker.current())
    prompts = {
        name: repeated(jobs, n) for name, jobs in prompts_by_concept(Path(dataset), seed, concept_column).items()
    }
    if folder.exists() and not folder.is_dir():
        raise BadFile(f"Cannot write images to {folder}: it is a file; give a folder with -o.")
    with crew.started(folder / LOGS):
        opened = model_from(model, device)
        settings = {"steps": steps, "guidance": guidance, "sampler": sampler, "eta": eta, "batch_size": batch_size}
        edited = _edited_models(erasers, opened, override(Sampling.default(opened), **settings), strength, force)
        sets = {
            f"{one.title} prompted for {name}": _ImageSet(folder / one.title / folder_name(name), one, tuple(chosen))
            for one in edited.values()
            for name, jobs in prompts.items()
            if (chosen := [job for job in jobs if job.prompt_type != "adversarial" or one.erases(name)])
        }
        for one in sets.values():
            one.check()
    new = [name for name, one in sets.items() if not one.is_done()]

    @lru_cache(maxsize=1)
    def load(title: str) -> Eraser:
        return load_eraser(edited[title].source, opened)

    def make(name: str) -> None:
        one = sets[name]
        images = generate_images(
            opened,
            one.jobs,
            one.edited.recipe.sampling,
            out=one.folder,
            eraser=load(one.edited.title),
            strength=strength,
            force=force,
        )
        errors = [image.error for image in images if image.error is not None]
        if errors:
            raise RuntimeError(f"{len(errors)} images could not be generated: {errors[0]}")

    started = time.perf_counter()
    failures = share_items(
        folder / LOGS,
        list(sets),
        lambda name: sets[name].is_done(),
        make,
        worker=crew.worker,
        what="folders of images",
        progress=progress,
    )
    complete = {name: one for name, one in sets.items() if name not in failures}
    return GenerateEachResult(
        folder,
        {name: one.folder for name, one in complete.items()},
        sum(len(one.keys) for one in complete.values()),
        tuple(name for name in new if name in complete),
        failures,
        time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _EditedModel:
    """One eraser, which is loaded when it is needed: erasers of whole weights are large."""

    title: str
    source: EraserLike
    concepts: tuple[str, ...]
    recipe: Recipe

    def erases(self, concept: str) -> bool:
        return name_key(concept) in map(name_key, self.concepts)


@dataclass(frozen=True)
class _ImageSet:
    """The images of one eraser and one concept."""

    folder: Path
    edited: _EditedModel
    jobs: tuple[Job, ...]

    @cached_property
    def keys(self) -> dict[str, tuple[str, int]]:
        """The prompt and the seed of each image, by the image's key, in the order of a complete folder."""
        return {self.edited.recipe.row(job)["key"]: (job.prompt, job.seed) for job in self.jobs}

    def is_done(self) -> bool:
        """Whether the folder is complete: its metadata begin with these images, in their order."""
        rows = read_image_rows(self.folder / METADATA)[: len(self.keys)]
        return [row.get("key") for row in rows] == list(self.keys) and all(
            (self.folder / row["file_name"]).exists() for row in rows
        )

    def check(self) -> None:
        """Refuse a folder whose images would be mixed with others.

        Raises:
            BadFile: It has images of another eraser, or images with the same prompt and seed and other settings.
        """
        images = set(self.keys.values())
        for row in read_image_rows(self.folder / METADATA):
            other_model = row.get("eraser") != self.edited.recipe.eraser
            if other_model or (row.get("key") not in self.keys and (row.get("prompt"), row.get("seed")) in images):
                raise BadFile(f"{self.folder} has images of another eraser or with other settings; choose another -o.")


def _edited_models(
    erasers: EraserLike | Sequence[EraserLike], model: Model, sampling: Sampling, strength: float, force: bool
) -> dict[str, _EditedModel]:
    """The erasers by the name of their folder, which has the concepts that they erase.

    Raises:
        BadInput: There is no eraser, or two erase the same concept.
    """
    edited: dict[str, _EditedModel] = {}
    for source in named_sources(erasers).values():
        eraser = load_eraser(source, model)
        check_base(eraser, model, force)
        title = JOINT.join(map(folder_name, eraser.concepts))
        if title in edited:
            names = " and ".join(eraser.concepts)
            raise BadInput(f"Two erasers erase {names}, and their images would share a folder; give one of them.")
        edited[title] = _EditedModel(title, source, eraser.concepts, Recipe.of(model, sampling, eraser, strength))
    return edited
