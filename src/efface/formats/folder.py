"""A whole model in diffusers' layout with the eraser baked into its weights: `DiffusionPipeline.from_pretrained(DIR)`.

Beside `model_index.json` lies `efface.json`, which says where it comes from.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from efface.apply.bake import bake
from efface.errors import BadFile
from efface.formats.base import Exported, Exporter, provenance_of
from efface.models.storage.folder import INDEX

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


def write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    """Write the folder, whole or not at all; the model stays as it is, and so does a folder in its place until then."""
    check_folder(path, force)
    place = path.resolve()  # of a link, what it points to
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    # The base was checked, or another one was forced.
    baked = bake(eraser, model, force=True)
    try:
        model.pipeline().save_pretrained(temporary)
        (temporary / "efface.json").write_text(provenance_of(eraser) + "\n", encoding="utf-8")
        _replace(place, temporary)
    except OSError as error:
        raise BadFile(f"Cannot write {path}: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise BadFile(f"Cannot write {path}: {error}.") from error
    finally:
        count = len(baked)
        baked.undo()
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(path, count)


def _replace(place: Path, new: Path) -> None:
    """Put a folder where another one may be, which lies beside it until then: one of them is always whole."""
    old = new.with_suffix(".old")
    if place.exists():
        place.rename(old)
    try:
        new.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_folder(path: Path, force: bool) -> None:
    """Find out whether a model may be written there before the work is done.

    Raises:
        BadFile: it may not: there is something, and `force` is false or it is no model's folder; or it is where the
            process works, which would then be in a folder that is gone.
    """
    if Path.cwd().is_relative_to(path.resolve()):
        raise BadFile(f"Cannot write {path}: the command runs in it; give a folder of another name.")
    if not path.parent.is_dir():
        raise BadFile(f"Cannot write {path}: the folder {path.parent} does not exist.")
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() and not (force and (path / INDEX).is_file()):
        mend = "choose another name" if force else "pass --force to replace a model's folder, or choose another name"
        raise BadFile(f"{path} already exists; {mend}.")


EXPORTER = Exporter(
    name="diffusers",
    summary="A whole model's folder with the eraser baked in: from_pretrained(DIR).",
    suffix="",
    write=write,
)
