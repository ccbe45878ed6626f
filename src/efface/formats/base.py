"""The contract of exporters, and the provenance that their files carry.

An exporter is one file with an entry (`Exporter`) whose function writes an eraser. `single_file.py` is a short example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from efface.files import atomic, public_name
from efface.formats.conversion import converted
from efface.json_writing import json_text
from efface.tensor_writing import write_tensors

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model

PROVENANCE = "efface_provenance"


@dataclass(frozen=True)
class Exported:
    """A written file or folder.

    Attributes:
        path: The file or folder.
        parameters: Number of the model's parameters that it changes.
        rank: The largest rank of a LoRA. None for complete weights.
        error: The error of the rank limit: the Frobenius norm of the discarded part, relative to the change.
    """

    path: Path
    parameters: int
    rank: int | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Exporter:
    """An export format in the registry.

    Attributes:
        name: The format's name on the command line.
        summary: One line for listings.
        suffix: The suffix of its files; "" for a folder.
        write: Writes an eraser: (eraser, its model, path, largest rank or None, whether to replace) -> `Exported`. The
            model is not changed. A BadInput says why the format cannot represent the eraser.
        takes_rank: Whether the format accepts a rank.
        part: The part of the model that a file of the format changes.
    """

    name: str
    summary: str
    suffix: str
    write: Callable[[Eraser, Model, Path, int | None, bool], Exported]
    takes_rank: bool = False
    part: str = "denoiser"


def provenance_json(eraser: Eraser) -> str:
    """The provenance of an exported eraser as JSON: its request, and the record of its solution."""
    from efface.eraser.file import header_of

    header = header_of(eraser)
    records = {name: header[name] for name in ("request", "provenance")}
    content = _without_paths({"eraser": eraser.hash, "model": eraser.base.model, **records})
    return json_text(content, ascii_only=True)


def _without_paths(value: Any) -> Any:
    """A JSON value in which local paths are replaced by the names of their files, since the file is shared."""
    if isinstance(value, str):
        return public_name(value)
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {name: _without_paths(item) for name, item in items}
    if isinstance(value, list):
        return [_without_paths(item) for item in cast("list[Any]", value)]
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor], eraser: Eraser, force: bool, **metadata: Any) -> None:
    """Write a safetensors file with the eraser's provenance in its header, atomically.

    Args:
        path: The file.
        tensors: The tensors by name.
        eraser: The eraser.
        force: Whether an existing file may be replaced.
        metadata: More entries of the header.

    Raises:
        BadFile: The file cannot be written, or exists and `force` is false.
    """
    with atomic(path, force) as temporary:
        write_tensors(temporary, tensors, header_of_file(eraser, **metadata))


def save_lora(
    path: Path, tensors: Mapping[str, Tensor], eraser: Eraser, model: Model, force: bool, **metadata: Any
) -> None:
    """`save_tensors` in float32, or in the type that was chosen for the model.

    Args:
        path: The file.
        tensors: The factors and differences by name, of any shape.
        eraser: The eraser.
        model: Its model.
        force: Whether an existing file may be replaced.
        metadata: More entries of the header.

    Raises:
        BadFile: The file cannot be written, or exists and `force` is false.
        BadInput: A number is too large for the type.
    """
    dtype = torch.float32 if model.runtime.dtype == "auto" else model.dtype
    typed = {name: converted(name, tensor, dtype) for name, tensor in tensors.items()}
    save_tensors(path, typed, eraser, force, **metadata)


def header_of_file(eraser: Eraser, **metadata: Any) -> dict[str, str]:
    """The entries of a safetensors header besides the tensors: the provenance, and more."""
    return {"format": "pt", PROVENANCE: provenance_json(eraser)} | {key: str(value) for key, value in metadata.items()}
