"""A complete model in diffusers' layout with the eraser baked in: `DiffusionPipeline.from_pretrained(DIR)`.

Parts that the eraser does not change are copied from the model's folder. `efface.json`, next to `model_index.json`, has
the provenance.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from efface.eraser.attach import bake
from efface.errors import FORCE, BadFile
from efface.files import remove_leftovers, temporary_for, why_not_written
from efface.formats.base import Exported, Exporter, provenance_json
from efface.formats.unchanged import restore_unchanged
from efface.models.pretrained import no_loading_bar
from efface.models.storage.folder import INDEX
from efface.models.storage.single_file import SingleFile

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model

PROVENANCE_FILE = "efface.json"


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    def save(folder: Path) -> None:
        model.pipeline().save_pretrained(folder)
        restore_unchanged(folder, _source(model))

    return write_baked(eraser, model, path, force, save)


def _source(model: Model) -> Path | None:
    """The folder with the model's parts; a checkpoint in one file has only its configuration from a folder."""
    return None if model.folder is None or isinstance(model.files, SingleFile) else model.folder


def write_baked(eraser: Eraser, model: Model, path: Path, force: bool, save: Callable[[Path], object]) -> Exported:
    """Write a folder with the eraser baked in, atomically: a folder in its place is replaced when all is written.

    Args:
        eraser: The eraser.
        model: Its model.
        path: The folder.
        force: Whether an existing folder may be replaced.
        save: Saves the model, or a part of it, to a folder.

    Raises:
        BadFile: The folder cannot be written, or exists and may not be replaced.
    """
    check_folder(path, force)
    target = path.resolve()  # the target of a link
    temporary = temporary_for(target)
    # The caller has checked the base, or forces another one.
    baked = bake(eraser, model, force=True)
    try:
        with no_loading_bar():
            save(temporary)
        (temporary / PROVENANCE_FILE).write_text(provenance_json(eraser) + "\n", encoding="utf-8")
        _replace(target, temporary)
    except OSError as error:
        raise BadFile(f"Cannot write {path}: {why_not_written(error)}.") from error
    except SafetensorError as error:
        raise BadFile(f"Cannot write {path}: {error}.") from error
    finally:
        count = len(baked)
        baked.undo()
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(path, count)


def _replace(target: Path, new: Path) -> None:
    """Rename a folder to `target`. An existing folder is renamed first and deleted last, so that one always exists."""
    old = new.with_suffix(".old")
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_folder(path: Path, force: bool) -> None:
    """Check that a model may be written to a folder, before the work starts.

    Raises:
        BadFile: The folder exists, and `force` is false or it is not the folder of a model; or it is the working
            directory, which would be deleted.
    """
    remove_leftovers(path.resolve())
    if Path.cwd().is_relative_to(path.resolve()):
        raise BadFile(f"Cannot write {path}: the command runs in it; choose another folder.")
    if not path.parent.is_dir():
        raise BadFile(f"Cannot write {path}: the folder {path.parent} does not exist.")
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() and not (force and any((path / name).is_file() for name in (INDEX, PROVENANCE_FILE))):
        fix = "choose another name" if force else f"pass {FORCE} to replace a model's folder, or choose another name"
        raise BadFile(f"{path} already exists; {fix}.")


ENTRY = Exporter(
    name="diffusers",
    summary="The folder of a complete model with the eraser baked in: from_pretrained(DIR).",
    suffix="",
    write=_write,
)
