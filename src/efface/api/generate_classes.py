"""`efface.generate_classes`: training images, in one folder per class."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.arguments import model_from
from efface.api.erasers import eraser_list, load_eraser
from efface.api.generate import generate
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.eraser.eraser import compose_erasers
from efface.errors import BadFile
from efface.generation.classes import read_classes

if TYPE_CHECKING:
    from efface.api.arguments import DeviceLike, ModelLike
    from efface.api.erasers import EraserLike
    from efface.progress import Progress


@dataclass(frozen=True)
class GenerateClassesResult(VerbResult):
    """Generated images of classes.

    Attributes:
        folder: The folder with the classes' folders.
        classes: The folder of each class, by its name.
        images: The number of images.
        errors: The number of images that could not be generated.
        seconds: The time that generating took, without opening the model.
    """

    folder: Path
    classes: dict[str, Path]
    images: int
    errors: int
    seconds: float


@none_is_not_given
def generate_classes(
    file: Path | str,
    folder: Path | str,
    n: int = 1,
    *,
    numbered: bool = False,
    concept_column: str | None = None,
    model: ModelLike = "emoji",
    eraser: EraserLike | Sequence[EraserLike] | None = None,
    seed: int = 0,
    device: DeviceLike = "auto",
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> GenerateClassesResult:
    """Generate images of several classes, in one folder per class, to train judges and erasers with.

    Image i of a class has seed `seed + i`. Two sets of images with seeds that are at least `n` apart share no image.

    Example:
        >>> efface.generate_classes("artists.csv", "data/train", 100)
        >>> efface.generate_classes("artists.csv", "data/eval", 50, seed=1000)
        >>> efface.train_judge("data", "artists")

    Args:
        file: A CSV with a column `concept`, `concept_name`, `class` or `artist`, and optionally `prompt`. The prompt
            of a class is its name, if the file gives none; several prompts are used in turn.
        folder: The folder for the classes' folders. Images that it contains already are not generated again.
        n: The number of images per class.
        concept_column: The column of classes; by default, it is found by its name or its words.
        numbered: Whether the folders are named 0, 1, 2 and so on, in the order of the file, and not after the classes.
        model: An open model, a diffusers pipeline, or the name, folder or file of a model.
        eraser: The eraser to attach, or its file; several are composed.
        seed: The seed of the first image of each class.
        device: The device to open a model's name on, or an `efface.Runtime`.
        force: Whether the eraser may be attached to another model than its own.
        progress: The progress callback; it covers all classes.
        **options: Further arguments of `efface.generate`: strength, steps, guidance, sampler, eta, size and batch_size.

    Raises:
        BadInput: The file, the model, the eraser or a setting cannot be used; the message says what to change.
    """
    folder, classes = Path(folder), read_classes(Path(file), numbered, concept_column)
    jobs = {one.folder: one.jobs(n, seed) for one in classes}
    if folder.exists() and not folder.is_dir():
        raise BadFile(f"Cannot write images to {folder}: it is a file; give a folder with -o.")
    opened, attached = model_from(model, device), None
    if eraser is not None:
        attached = compose_erasers(*(load_eraser(one, opened) for one in eraser_list(eraser)), force=force)
    started, images, errors = time.perf_counter(), 0, 0
    for index, (name, of_class) in enumerate(jobs.items()):
        report = _part_of(progress, index * n, len(jobs) * n) if progress else None
        result = generate(
            of_class, model=opened, eraser=attached, folder=folder / name, force=force, progress=report, **options
        )
        images, errors = images + len(result.rows), errors + result.errors
    folders = {one.name: folder / one.folder for one in classes}
    return GenerateClassesResult(folder, folders, images, errors, time.perf_counter() - started)


def _part_of(progress: Progress, before: int, of_all: int) -> Progress:
    """The callback that reports the images of one class as a part of all images."""

    def report(what: str, done: int, total: int, note: str = "") -> None:
        progress(what, before + done, of_all, note)

    return report
