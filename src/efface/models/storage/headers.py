"""The headers of safetensors files: names, types and shapes of tensors, without their values.

A file begins with the length of its header, 8 bytes, and the header, one JSON object
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from efface.errors import BadFile
from efface.parsing import library_errors, parse_json

#: Bytes of one number, by the names of safetensors.
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_LONGEST = 100_000_000  # bytes of a header, the limit of the format


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Attributes:
        dtype: The type of its numbers, by the names of safetensors ("BF16").
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """The number of its entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.numel * _BYTES.get(self.dtype, 1)


def read_headers(paths: Iterable[Path]) -> dict[str, Stored]:
    """The tensors of files, by name.

    Args:
        paths: The files.

    Raises:
        BadFile: A file cannot be read, or is not a safetensors file.
    """
    return {name: tensor for path in paths for name, tensor in _header(path).items()}


def _header(path: Path) -> dict[str, Stored]:
    with library_errors(f"Cannot read the header of {path}"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST:
                raise BadFile(f"{path} is not a safetensors file.")
            content = parse_json(file.read(length))
        content.pop("__metadata__", None)
        return {name: Stored(str(entry["dtype"]), tuple(entry["shape"])) for name, entry in content.items()}
