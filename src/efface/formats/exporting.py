"""Erasers in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efface.eraser.base import check_base
from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.formats import EXPORTERS, Exported
from efface.models import Model, open_model

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline


def export_eraser(
    eraser: Eraser,
    model: Model | DiffusionPipeline | str,
    path: Path | str,
    format: str,
    *,
    rank: int | None = None,
    force: bool = False,
) -> Exported:
    """Write an eraser in another tool's format.

    Args:
        eraser: what to write.
        model: the model it was made for.
        path: the file, or the folder for `diffusers`.
        format: lora, kohya, diffusers, single-file or uce.
        rank: of a LoRA, at most; a change of higher rank is cut to its leading directions.
        force: replace what is there, and export for another model than the eraser's.

    Raises:
        BadInput: the eraser cannot be written in that format; the message says why.
    """
    chosen = EXPORTERS.get(format)
    if rank is not None and not chosen.takes_rank:
        raise BadInput(f"The format {format} holds whole weights; --rank is for lora and kohya.")
    if eraser.kind_of_edit == "guard":
        raise BadInput(f"What {eraser.method} does while the model runs is in no weight; no other format can hold it.")
    opened = model if isinstance(model, Model) else open_model(model)
    check_base(eraser, opened, force)
    return chosen.write(eraser, opened, Path(path), rank, force)
