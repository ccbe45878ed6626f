"""The complete edited U-Net as a PyTorch file, like the files `diffusers-*.pt` of ESD and SepCE.

    unet.load_state_dict(torch.load(FILE, weights_only=True))

The provenance is in the metadata of the state dict, which PyTorch ignores.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.edits.kinds import WeightEdit
from efface.errors import BadFile, BadInput
from efface.files import atomic
from efface.formats.base import PROVENANCE, Exported, Exporter, provenance_json
from efface.formats.changes import edited_tensors

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    for edit in eraser.edits:
        if isinstance(edit, WeightEdit) and not edit.parameter.startswith("denoiser."):
            raise BadInput(
                f"The eraser changes {edit.parameter}, and this format has only the U-Net; export as diffusers."
            )
    edited: set[str] = set()
    state: Any = OrderedDict(
        (name, tensor.detach().cpu().contiguous()) for name, tensor in edited_tensors(eraser, model, "denoiser", edited)
    )
    state._metadata = OrderedDict({PROVENANCE: provenance_json(eraser)})
    try:
        with atomic(path, force) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # PyTorch's own writer reports a full disk so
        raise BadFile(f"Cannot write {path}: {' '.join(str(error).split())[:120]}.") from error
    return Exported(path, len(edited))


ENTRY = Exporter(
    name="esd",
    summary="The complete edited U-Net, as saved by ESD and SepCE: unet.load_state_dict(torch.load(FILE)).",
    suffix=".pt",
    write=_write,
)
