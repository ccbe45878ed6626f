"""The runs whose images are in one folder: images of different models, erasers or samplers are different sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from efface.errors import FORCE, BadFile
from efface.generation.folder import METADATA, Image
from efface.generation.rows import Row, is_own, read_image_rows, write_rows

#: The values of a row that are the same for all images of a run.
_SETTINGS = ("model", "model_hash", "eraser", "strength", "sampler", "steps", "clip_skip", "eta")
#: Values that may differ within one run, but not for images of one prompt and seed in two runs.
_OF_IMAGE = ("guidance", "negative", "width", "height", "precision", "libraries", "embedding", "file_name")


def check_one_run(folder: Path, rows: Sequence[Row]) -> None:
    """Check that a folder has no images of another run.

    Args:
        folder: The folder, which may be missing.
        rows: The metadata of the images of the run.

    Raises:
        BadFile: It has; the message names the first difference.
    """
    for other, row in _of_other_runs(_rows(folder), rows):
        differ = [name for name in (*_SETTINGS, *_OF_IMAGE) if other.get(name) != row.get(name)]
        if differ:
            stored, new = (_shown(values.get(differ[0])) for values in (other, row))
            raise BadFile(
                f"{folder} has images of another run, with {differ[0]} {stored} instead of {new}; choose another "
                f"folder with -o, or replace them with {FORCE}."
            )


def remove_other_runs(folder: Path, rows: Sequence[Row]) -> None:
    """Remove a folder's images of other runs, which efface generated.

    Args:
        folder: The folder, which may be missing.
        rows: The metadata of the images of the run that stays.
    """
    stored = _rows(folder)
    others = [other for other, _ in _of_other_runs(stored, rows)]
    if not others:
        return
    gone = {other["key"] for other in others}
    stays = [row for row in stored if row["key"] not in gone]
    write_rows(folder / METADATA, stays)
    for name in {str(other["file_name"]) for other in others} - {str(other["file_name"]) for other in stays}:
        file = folder / name
        if file.resolve().is_relative_to(folder.resolve()):
            file.unlink(missing_ok=True)


def _of_other_runs(stored: Sequence[Row], rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The stored images of other runs, each with an image of the run that it is compared with.

    These are images with other settings, and images of a prompt and a seed of the run that are none of its images.
    """
    keys = {row["key"] for row in rows}
    same = {(row["prompt"], row["seed"]): row for row in rows}
    others: list[tuple[Row, Row]] = []
    for other in stored:
        if run_of(other) != run_of(rows[0]):
            others.append((other, rows[0]))
        elif other["key"] not in keys and (row := same.get((other["prompt"], other["seed"]))):
            others.append((other, row))
    return others


def run_of(row: Row) -> tuple[object, ...]:
    """The settings of the run that an image is of."""
    return tuple(row.get(name) for name in _SETTINGS)


def runs_in_one_folder(images: Iterable[Image]) -> int:
    """The largest number of runs whose images are in one folder; images without settings are not counted."""
    runs: dict[Path | None, set[tuple[object, ...]]] = {}
    for image in images:
        if is_own(image.row):
            runs.setdefault(image.path and image.path.parent, set()).add(run_of(image.row))
    return max(map(len, runs.values()), default=0)


def _rows(folder: Path) -> list[Row]:
    return [row for row in read_image_rows(folder / METADATA) if is_own(row)]


def _shown(value: object) -> str:
    return "none" if value is None else str(value)[:12]
