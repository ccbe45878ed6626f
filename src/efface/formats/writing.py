"""Writing safetensors files tensor by tensor, so that memory holds one of them and not the file.

    8 bytes: the length of the header | the header, JSON: name -> dtype, shape, data_offsets | the tensors' bytes

Tensors of wider types come first, as the libraries write them, so that each begins at a multiple of its entries' size.
The same tensors give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from efface.errors import BadInput
from efface.files import atomic

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Layout:
    """What the header has about a tensor.

    Attributes:
        dtype: Its type.
        shape: Its shape.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The size of its data."""
        return self.dtype.itemsize * math.prod(self.shape)


def layout_of(tensor: Tensor) -> Layout:
    """The layout of a tensor of any shape."""
    return Layout(tensor.dtype, tuple(tensor.shape))


def write_safetensors(
    path: Path,
    layouts: Mapping[str, Layout],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str],
    force: bool,
) -> None:
    """Write a file, atomically.

    Args:
        path: The file.
        layouts: The layouts of all tensors by name.
        tensors: The same tensors, such as (d_out, d_in), with their names, in any order, each written before the
            next one is taken.
        metadata: The entries of the header beside the tensors.
        force: Whether an existing file may be replaced.

    Raises:
        BadFile: The file cannot be written, or exists and `force` is false.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    starts: dict[str, int] = {}
    end = 0
    for name in sorted(layouts, key=lambda name: (-layouts[name].dtype.itemsize, name)):
        layout, starts[name] = layouts[name], end
        end += layout.bytes
        offsets = [starts[name], end]
        header[name] = {"dtype": _TYPES[layout.dtype], "shape": list(layout.shape), "data_offsets": offsets}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    left = set(layouts)
    with atomic(path, force) as temporary, temporary.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, tensor in tensors:
            assert layout_of(tensor) == layouts[name]
            file.seek(8 + len(encoded) + starts[name])
            file.write(_bytes_of(tensor))
            left.remove(name)
        assert not left


def converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of any shape in another type, if it has floating numbers.

    Args:
        name: Its name, for messages.
        tensor: The tensor.
        dtype: The type.

    Raises:
        BadInput: A number is too large for the type.
    """
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    result = tensor.to(dtype)
    if dtype == torch.float16 and not result.isfinite().all() and tensor.isfinite().all():
        raise BadInput(f"{name} has numbers that are too large for float16; export with --dtype bf16 or float32.")
    return result


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
