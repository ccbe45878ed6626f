"""Removes images that efface generated, such as those of an unsafe concept; all other files stay."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from efface.errors import BadFile
from efface.files import locked, remove_partial, why_not_written
from efface.generation.folder import ERRORS, METADATA
from efface.generation.rows import is_own, read_image_rows, write_rows


def remove_images(folders: Iterable[Path], below: Path | None = None) -> None:
    """Remove the pictures that efface's rows of `metadata.jsonl` name. A folder without such rows is not changed.

    Args:
        folders: Image folders; a missing one is skipped.
        below: Remove these rows too, and the folders below this one that are then empty; None preserves the rows.

    Raises:
        BadFile: An image cannot be removed, or another run writes to its folder; all other images are removed.
    """
    failures: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            continue
        try:
            with locked(folder):
                remove_partial(folder)
                failed = _remove_pictures(folder)
                if below is not None and not failed:
                    _remove_rows(folder)
                    _remove_empty(folder, below)
        except (BadFile, OSError) as error:
            failed = [f"{folder}: {why_not_written(error) if isinstance(error, OSError) else error}"]
        failures += failed
    if failures:
        raise BadFile(f"Images that shall not stay cannot be removed; remove them: {'; '.join(failures[:3])}.")


def _remove_pictures(folder: Path) -> list[str]:
    """Remove the pictures of efface's rows; the result is the reason of each picture that cannot be removed."""
    failed: list[str] = []
    for row in read_image_rows(folder / METADATA):
        name = str(row["file_name"])
        if not is_own(row) or Path(name).name != name:
            continue
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            failed.append(f"{folder / name}: {why_not_written(error)}")
    return failed


def _remove_rows(folder: Path) -> None:
    """Remove efface's rows, and files that have no other row."""
    for file in (folder / METADATA, folder / ERRORS):
        if others := [row for row in read_image_rows(file) if not is_own(row)]:
            write_rows(file, others)
        else:
            file.unlink(missing_ok=True)


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it, below `top`, as long as they are empty."""
    for path in (folder, *folder.parents):
        if path == top or any(path.iterdir()):
            return
        path.rmdir()
