"""`efface.generate_grid`: images of the unedited model and of several erasers, in one picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.arguments import model_from
from efface.api.erasers import named_erasers
from efface.api.generate import GenerateResult, generate, jobs_from
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.eraser.base_check import check_base
from efface.errors import BadFile, BadInput
from efface.files import exists_already
from efface.generation.folder import ERRORS, METADATA, folder_name
from efface.generation.prompts import read_prompt_file
from efface.generation.rows import read_image_rows
from efface.protocols import BASE
from efface.report.pictures import CELL, GridBlock, write_grid
from efface.rerun import check_new_or_same, write_or_compare

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from efface.api.arguments import DeviceLike, ModelLike
    from efface.api.erasers import EraserLike
    from efface.generation import Job
    from efface.progress import Progress

#: The largest number of images in a row of all prompts, and the largest side of a picture.
MOST, LARGEST = 500, 256


@dataclass(frozen=True)
class GridResult(VerbResult):
    """Images of the unedited model and of several erasers.

    Attributes:
        path: The picture: for each prompt, a row of the unedited model and a row of each eraser, with the same seeds.
        folder: The folder of the images, with a folder for each row; None for images in memory.
        rows: The images of each row; `base` is the unedited model.
        seconds: The time that generating took, without opening the model.
        existed: Whether the same picture was there before, so that it was not written.
    """

    path: Path
    folder: Path | None
    rows: dict[str, GenerateResult]
    seconds: float
    existed: bool = False

    @property
    def errors(self) -> int:
        """The number of images that could not be generated."""
        return sum(row.errors for row in self.rows.values())

    def to_json(self) -> dict[str, Any]:
        """The object that `efface generate --grid --json` prints; images are given by their file names."""
        return {
            "grid": str(self.path),
            "folder": None if self.folder is None else str(self.folder),
            "rows": {name: [image["file_name"] for image in row.rows] for name, row in self.rows.items()},
            "errors": self.errors,
            "seconds": self.seconds,
            "existed": self.existed,
        }


@none_is_not_given
def generate_grid(
    prompts: str | Path | Sequence[str | Job],
    path: Path | str,
    erasers: EraserLike | Sequence[EraserLike] = (),
    *,
    model: ModelLike = "emoji",
    n: int = 1,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    file_names: str = "prompt",
    concept_column: str | None = None,
    only: str | None = None,
    device: DeviceLike = "auto",
    folder: Path | str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> GridResult:
    """Generate the same prompts and seeds with the unedited model and with each eraser alone, and write one PNG.

    Example:
        >>> efface.generate_grid("a cat in 3d style", "cat.png", ["cat-uce.safetensors", "cat-esd.safetensors"], n=4)

    Args:
        prompts: As for `efface.generate`.
        path: The PNG. Each prompt has a row of the unedited model and a row of each eraser.
        erasers: The erasers, each attached alone; files, folders of files, or patterns.
        model: An open model, a diffusers pipeline, or the name, folder or file of a model.
        n: The number of images per prompt.
        seed: The seed of the first image of each prompt that has none of its own.
        size: Width and height in pixels, of jobs that have none of their own; by default the model's.
        file_names: As for `efface.generate`.
        concept_column: As for `efface.generate`.
        only: As for `efface.generate`.
        device: The device to open a model's name on, or an `efface.Runtime`.
        folder: The folder of the images, with a folder for each row. Existing images are not generated again. Without a
            folder, the images stay in memory.
        force: Whether an existing PNG may be replaced, and erasers attached to another model than their own.
        progress: The progress callback.
        **settings: Other settings of `efface.generate`, for example `steps` and `strength`.

    Raises:
        BadInput: An argument cannot be used; the message says what to change.
    """
    path, out = Path(path), None if folder is None else Path(folder)
    if path.suffix.lower() != ".png":
        raise BadInput(f"The grid {path} is a PNG; give a name that ends in .png.")
    if isinstance(prompts, Path):
        prompts = read_prompt_file(prompts, seed, concept_column, only).jobs
    elif only is not None:
        raise BadInput("--only selects rows of a file of prompts; give one with --prompts.")
    jobs = jobs_from(prompts, n, seed, size, file_names)
    if len(jobs) > MOST:
        raise BadInput(f"A grid of {len(jobs)} columns is too large; give fewer prompts and images, at most {MOST}.")
    if out is not None and out.exists() and not out.is_dir():
        raise BadFile(f"Cannot write images to {out}: it is a file; give a folder with -o.")
    check_new_or_same(path, force)
    opened = model_from(model, device)
    edited = named_erasers(erasers, opened) if erasers else {}
    for eraser in edited.values():  # a wrong eraser is an error before an image is generated
        check_base(eraser, opened, force)
    folders = {name: None if out is None else out / folder_name(name) for name in (BASE, *edited)}
    if path.is_file() and not force and not all(_has_images(place, jobs) for place in folders.values()):
        raise exists_already(path)
    started = time.perf_counter()
    rows = {
        name: generate(
            jobs,
            model=opened,
            eraser=eraser,
            folder=folders[name],
            force=force,
            progress=progress,
            **settings,
        )
        for name, eraser in {BASE: None, **edited}.items()
    }
    seconds = time.perf_counter() - started
    pictures = {name: _pictures(row) for name, row in rows.items()}
    side = max((max(picture.size) for row in pictures.values() for picture in row if picture), default=CELL)
    cell = max(CELL, min(side, LARGEST))
    existed = write_or_compare(path, force, lambda file: write_grid(_blocks(jobs, pictures), file, cell))
    return GridResult(path, out, rows, seconds, existed)


def _has_images(folder: Path | None, jobs: Sequence[Job]) -> bool:
    """Whether an earlier run generated all images of a row in a folder, or could not generate them."""
    if folder is None:
        return False
    rows = [*read_image_rows(folder / METADATA), *read_image_rows(folder / ERRORS)]
    return {(job.prompt, job.seed) for job in jobs} <= {(row.get("prompt"), row.get("seed")) for row in rows}


def _pictures(result: GenerateResult) -> list[Picture | None]:
    """The image of each job; None for one that could not be generated."""
    images = iter(result.images)
    return [next(images) if outcome.error is None else None for outcome in result.outcomes]


def _blocks(jobs: Sequence[Job], pictures: dict[str, list[Picture | None]]) -> list[GridBlock]:
    """One block per prompt."""
    places: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        places.setdefault(job.prompt, []).append(place)
    return [
        GridBlock(
            prompt, [("unedited" if name == BASE else name, [row[i] for i in chosen]) for name, row in pictures.items()]
        )
        for prompt, chosen in places.items()
    ]
