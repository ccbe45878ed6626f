"""Checkpoints of the usual formats as tensors by name. Each tensor is read on demand; no code in a file is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from torch import Tensor

from efface.errors import BadFile
from efface.parsing import library_errors
from efface.tensor_files import check_tensors, read_pickle


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file.

    Attributes:
        path: The file.
        tensors: Functions that read the tensors, by name; nested names are joined by dots.
        metadata: The metadata of a safetensors file.
    """

    path: Path
    tensors: Mapping[str, Callable[[], Tensor]]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a `.safetensors` file, or one that `torch.save` wrote.

    Raises:
        BadFile: The file is missing or damaged, has no tensors, or needs code to be unpickled.
    """
    if not path.is_file():
        raise BadFile(f"There is no file {path}.")
    if path.suffix.lower() == ".safetensors":
        opened = _safetensors(path)
    else:
        opened = Checkpoint(path, dict(_flat(path, read_pickle(path))))
    if not opened.tensors:
        raise BadFile(f"{path} has no tensors.")
    return opened


def _safetensors(path: Path) -> Checkpoint:
    with library_errors(f"{path} is no safetensors file, or is cut short or damaged"):
        file: Any = safe_open(path, framework="pt")
        metadata: dict[str, str] = file.metadata() or {}
        return Checkpoint(path, {name: _reader(path, file, name) for name in file.keys()}, metadata)  # noqa: SIM118 - not a dict


def _reader(path: Path, file: Any, name: str) -> Callable[[], Tensor]:
    return lambda: _checked(path, name, file.get_tensor(name))


def _checked(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor, of any shape, of real and finite numbers."""
    check_tensors({name: tensor}, str(path))
    return tensor


def _flat(path: Path, value: object, prefix: str = "") -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The tensors of nested mappings; other values (counters, settings of an optimizer) are ignored."""
    if isinstance(value, Tensor):
        yield prefix, lambda: _checked(path, prefix, value.detach())
    elif isinstance(value, Mapping):
        for name, inner in cast("Mapping[object, object]", value).items():
            yield from _flat(path, inner, f"{prefix}.{name}" if prefix else str(name))
