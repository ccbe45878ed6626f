"""The runs whose images are in one folder: images of different models, erasers or samplers are different sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from efface.errors import FORCE, BadFile
from efface.generation.folder import METADATA, Image
from efface.generation.rows import Row, is_own, read_image_rows, write_rows

#: The values of a row that are the same for all images of a run. Prompts, seeds and guidance may differ within one.
_SETTINGS = ("model", "model_hash", "eraser", "strength", "sampler", "steps", "clip_skip", "eta")


def check_one_run(folder: Path, row: Row) -> None:
    """Check that a folder has no images of another run.

    Args:
        folder: The folder, which may be missing.
        row: The metadata of an image of the run.

    Raises:
        BadFile: It has; the message names the first difference.
    """
    for other in _rows(folder):
        if differ := [name for name in _SETTINGS if other.get(name) != row.get(name)]:
            stored, new = (_shown(values.get(differ[0])) for values in (other, row))
            raise BadFile(
                f"{folder} has images of another run, with {differ[0]} {stored} instead of {new}; choose another "
                f"folder with -o, or replace them with {FORCE}."
            )


def remove_other_runs(folder: Path, row: Row) -> None:
    """Remove a folder's images of other runs, which efface generated.

    Args:
        folder: The folder, which may be missing.
        row: The metadata of an image of the run that stays.
    """
    rows = _rows(folder)
    others = [other for other in rows if run_of(other) != run_of(row)]
    if not others:
        return
    stays = [other for other in rows if run_of(other) == run_of(row)]
    write_rows(folder / METADATA, list(stays))
    for name in {str(other["file_name"]) for other in others} - {str(other["file_name"]) for other in stays}:
        file = folder / name
        if file.resolve().is_relative_to(folder.resolve()):
            file.unlink(missing_ok=True)


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
