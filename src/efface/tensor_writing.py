"""Writing safetensors files tensor by tensor, so that memory holds one of them and not the file.

The writer of the library puts a file of a random name into the same folder, which a killed process leaves there.

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

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file of tensors that are in memory. It is complete only when this returns.

    Args:
        path: The file.
        tensors: By name, of any shape.
        metadata: The entries of the header beside the tensors.

    Raises:
        OSError: The file cannot be written.
    """
    layouts = {name: layout_of(tensor) for name, tensor in tensors.items()}
    stream_tensors(path, layouts, tensors.items(), metadata or {})


def stream_tensors(
    path: Path, layouts: Mapping[str, Layout], tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> None:
    """Write a file of tensors that are made one after the other. It is complete only when this returns.

    Args:
        path: The file.
        layouts: The layouts of all tensors by name.
        tensors: The same tensors, such as (d_out, d_in), with their names, in any order, each written before the
            next one is taken.
        metadata: The entries of the header beside the tensors.

    Raises:
        OSError: The file cannot be written.
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
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, tensor in tensors:
            assert layout_of(tensor) == layouts[name]
            file.seek(8 + len(encoded) + starts[name])
            file.write(_bytes_of(tensor))
            left.remove(name)
        assert not left


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
