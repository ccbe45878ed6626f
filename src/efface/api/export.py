"""`efface.export`: an eraser in the format of another tool."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from efface.api.arguments import model_from
from efface.api.erasers import load_eraser
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.eraser.base_check import check_base
from efface.errors import BadInput
from efface.files import check_suffix, check_writable, remove_leftovers, temporary_for
from efface.formats import EXPORTERS
from efface.formats.base import Exported
from efface.formats.folder import PROVENANCE_FILE, check_folder
from efface.rerun import have_same_content

if TYPE_CHECKING:
    from efface.api.arguments import DeviceLike, ModelLike
    from efface.api.erasers import EraserLike


@dataclass(frozen=True)
class ExportResult(VerbResult):
    """An exported eraser.

    Attributes:
        eraser: The eraser's file; None for an eraser in memory.
        format: The format.
        path: The file or folder that was written.
        parameters: The number of parameters of the model that change.
        rank: The largest rank of a LoRA; None for complete weights.
        error: The Frobenius norm of the part that the rank cuts off, relative to the change.
        bytes: The size of the file, or of all files in the folder.
        existed: Whether the same export was there before, so that nothing was written.
    """

    eraser: Path | None
    format: str
    path: Path
    parameters: int
    rank: int | None
    error: float
    bytes: int
    existed: bool = False


@none_is_not_given
def export(
    eraser: EraserLike,
    format: str,
    path: Path | str,
    *,
    model: ModelLike = "emoji",
    rank: int | None = None,
    device: DeviceLike = "auto",
    force: bool = False,
) -> ExportResult:
    """Write an eraser in the format of another tool: a LoRA, a complete model, or complete edited weights.

    Example:
        >>> efface.export("cat.safetensors", "kohya", "cat-lora.safetensors").rank
        1

    Args:
        eraser: The eraser, or its file.
        format: Name of the format: lora, kohya, diffusers, single-file, uce, esd or text-encoder.
        path: The file to write, or the folder for `diffusers` and `text-encoder`.
        model: The model that the eraser was made for.
        rank: The largest rank of a LoRA; a change of higher rank is cut to its leading directions.
        device: The device to open a model's name on, or an `efface.Runtime`.
        force: Replace what is there, and export for another model than the eraser's.

    Raises:
        BadInput: The eraser cannot be written in that format, or not there; the message says why.
    """
    exporter, target = EXPORTERS.get(format), Path(path)
    if exporter.suffix:
        check_suffix(target, exporter.suffix)
    check = check_writable if exporter.suffix else check_folder
    exists = not force and (target.is_file() if exporter.suffix else (target / PROVENANCE_FILE).is_file())
    check(target, force or exists)
    opened = model_from(model, device)
    loaded = load_eraser(eraser, opened)
    if rank is not None and not exporter.takes_rank:
        raise BadInput(f"The format {format} holds whole weights; --rank is for lora and kohya.")
    if loaded.kind_of_edit == "guard":
        raise BadInput(
            f"An eraser by {loaded.method} acts while the model runs: the edit is in no weight, so no other format can "
            "hold it."
        )
    check_base(loaded, opened, force)
    if exists:
        done = replace(_compared(partial(exporter.write, loaded, opened), target, rank, check), path=target)
    else:
        done = exporter.write(loaded, opened, target, rank, force)
    files = [target] if target.is_file() else [file for file in target.rglob("*") if file.is_file()]
    return ExportResult(
        eraser=Path(eraser) if isinstance(eraser, (str, Path)) else None,
        format=format,
        path=done.path,
        parameters=done.parameters,
        rank=done.rank,
        error=done.error,
        bytes=sum(file.stat().st_size for file in files),
        existed=exists,
    )


def _compared(
    write: Callable[[Path, int | None, bool], Exported], target: Path, rank: int | None, check: Callable[..., object]
) -> Exported:
    """Export beside a target that exists and compare both, so that a command that was finished can be run again.

    Raises:
        BadFile: The target is another export.
    """
    remove_leftovers(target)
    beside = temporary_for(target)
    beside.mkdir()
    try:
        done = write(beside / target.name, rank, False)
        if not have_same_content(beside / target.name, target):
            check(target, False)
        return done
    finally:
        shutil.rmtree(beside, ignore_errors=True)
