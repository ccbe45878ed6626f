"""What an exporter is, and what they share: how a file says where it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from efface.errors import BadFile
from efface.files import atomic

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model

PROVENANCE = "efface_provenance"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file or folder.
        parameters: how many parameters of the model it changes.
        rank: the largest rank of a LoRA; None of whole weights.
        error: what cutting to that rank lost: the Frobenius norm of all that was left out, relative to the change.
    """

    path: Path
    parameters: int
    rank: int | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Exporter:
    """One format.

    Attributes:
        name: what it is called on the command line.
        summary: one line on what it is for.
        suffix: of its files; "" for a folder.
        write: (eraser, its model, path, rank, force) -> what was written.
        takes_rank: whether it can be told a rank.
    """

    name: str
    summary: str
    suffix: str
    write: Callable[[Eraser, Model, Path, int | None, bool], Exported]
    takes_rank: bool = False


def provenance_of(eraser: Eraser) -> str:
    """Where an exported eraser comes from, as JSON: its request and how it was made."""
    from efface.eraser.file import header_of

    header = header_of(eraser)
    told = {name: header[name] for name in ("request", "provenance")}
    return json.dumps({"eraser": eraser.hash, "model": eraser.base.model, **told})


def save(path: Path, tensors: Mapping[str, Tensor], eraser: Eraser, force: bool, **metadata: Any) -> None:
    """Write one safetensors file with the eraser's provenance in its header, whole or not at all."""
    # One copy each: safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    told = {"format": "pt", PROVENANCE: provenance_of(eraser), **{name: str(value) for name, value in metadata.items()}}
    with atomic(path, force) as temporary:
        try:
            save_file(tensors, temporary, metadata=told)
        except SafetensorError as error:
            raise BadFile(f"Cannot write {path}: {error}.") from error
