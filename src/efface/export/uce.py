"""Whole edited weights by diffusers' names, as the UCE and ESD repositories save them.

    MODULE.weight   of every parameter of the denoiser that is changed

`unet.load_state_dict(load_file(FILE), strict=False)` loads it. For an edit of the text these are all attn2.to_k and
attn2.to_v, as UCE's own files have them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from efface.errors import BadInput
from efface.export.base import Exported, Exporter, save
from efface.export.changes import changes

if TYPE_CHECKING:
    from efface.eraser import Eraser
    from efface.models import Model


def write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    """Write the file."""
    tensors: dict[str, Tensor] = {}
    for change in changes(eraser, model):
        if change.part != "denoiser":
            raise BadInput(
                f"The eraser changes {change.part}.{change.name}, and this format holds the denoiser alone; "
                "export it as diffusers or single-file."
            )
        tensors[change.name] = change.edited.to(model.dtype)
    save(path, tensors, eraser, force)
    return Exported(path, len(tensors))


EXPORTER = Exporter(
    name="uce",
    summary="Whole edited weights as UCE and ESD save them: unet.load_state_dict(..., strict=False).",
    suffix=".safetensors",
    write=write,
)
