"""The complete edited U-Net as a PyTorch file, like the files `diffusers-*.pt` of ESD and SepCE.

    unet.load_state_dict(torch.load(FILE, weights_only=True))

The provenance is in the metadata of the state dict, which PyTorch ignores.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.errors import BadFile, BadInput
from efface.files import atomic
from efface.formats.base import PROVENANCE, Exported, Exporter, provenance_json
from efface.formats.changes import parameter_changes

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    changes = {(change.part, change.name): change.edited.to(model.dtype) for change in parameter_changes(eraser, model)}
    for part, name in changes:
        if part != "denoiser":
            raise BadInput(
                f"The eraser changes {part}.{name}, and this format has only the U-Net; export as diffusers."
            )
    state: Any = OrderedDict(
        (name, changes.get(("denoiser", name), tensor).detach().cpu().contiguous())
        for name, tensor in model.weights("denoiser")
    )
    state._metadata = OrderedDict({PROVENANCE: provenance_json(eraser)})
    try:
        with atomic(path, force) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # PyTorch's own writer reports a full disk so
        raise BadFile(f"Cannot write {path}: {' '.join(str(error).split())[:120]}.") from error
    return Exported(path, len(changes))


ENTRY = Exporter(
    name="esd",
    summary="The complete edited U-Net, as saved by ESD and SepCE: unet.load_state_dict(torch.load(FILE)).",
    suffix=".pt",
    write=_write,
)
