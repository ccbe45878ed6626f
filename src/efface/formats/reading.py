"""Checkpoints of the usual formats as tensors by name. Each tensor is read on demand; no code in a file is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from efface.errors import BadFile

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


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
    opened = _safetensors(path) if path.suffix == ".safetensors" else Checkpoint(path, dict(_flat(_unpickled(path))))
    if not opened.tensors:
        raise BadFile(f"{path} has no tensors.")
    return opened


def _safetensors(path: Path) -> Checkpoint:
    try:
        file: Any = safe_open(path, framework="pt")
        metadata: dict[str, str] = file.metadata() or {}
        return Checkpoint(path, {name: _reader(file, name) for name in file.keys()}, metadata)  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise BadFile(f"{path} is no safetensors file, or is cut short or damaged ({error}).") from error


def _reader(file: Any, name: str) -> Callable[[], Tensor]:
    return lambda: file.get_tensor(name)


def _unpickled(path: Path) -> object:
    try:
        # With mmap, tensors are read from disk on demand. Files from before torch 1.6 are no archives.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        match = _GLOBAL.search(str(error))
        what = f" ({match[1]})" if match else ""
        raise BadFile(
            f"{path} is damaged, or holds more than tensors{what}: efface runs no code from a file, so save its "
            "state_dict as safetensors on a machine where you trust it."
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadFile(f"{path} is no checkpoint, or is cut short or damaged ({reason}).") from error


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The tensors of nested mappings; other values (counters, settings of an optimizer) are ignored."""
    if isinstance(value, Tensor):
        yield prefix, lambda: value.detach()
    elif isinstance(value, Mapping):
        for name, inner in cast("Mapping[object, object]", value).items():
            yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))
