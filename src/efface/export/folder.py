"""A whole model in diffusers' layout with the eraser baked into its weights: `DiffusionPipeline.from_pretrained(DIR)`.

Beside `model_index.json` lies `efface.json`, which says where it comes from.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from efface.bake import bake
from efface.errors import BadFile
from efface.export.base import Exported, Exporter, provenance_of
from efface.models.folder import INDEX

if TYPE_CHECKING:
    from efface.eraser import Eraser
    from efface.models import Model


def write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    """Write the folder, whole or not at all; the model stays as it is."""
    check_folder(path, force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # The base was checked, or another one was forced.
    baked = bake(eraser, model, force=True)
    try:
        model.pipeline().save_pretrained(temporary)
        (temporary / "efface.json").write_text(provenance_of(eraser) + "\n", encoding="utf-8")
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as error:
        raise BadFile(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        count = len(baked)
        baked.undo()
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(path, count)


def check_folder(path: Path, force: bool) -> None:
    """Find out whether a model may be written there before the work is done.

    Raises:
        BadFile: it may not: there is something, and `force` is false or it is no model's folder.
    """
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
