"""Reading tensors and arrays whose content is not yet checked: safetensors, `torch.save`, `.npy` and `.npz` files.

The sizes in a header are compared with the size of the file before memory is allocated; no code in a file is run.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadFile
from efface.parsing import leaves, library_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_ARRAY_BYTES = 1 << 28  # of the arrays in one file
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read_safetensors(path: Path, what: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the metadata and the tensors of a safetensors file.

    Args:
        path: The file.
        what: The content in words.

    Returns:
        The metadata, and the tensors by name, of any shape.

    Raises:
        BadFile: The file is missing, truncated, or not a safetensors file.
    """
    from safetensors import safe_open

    with library_errors(f"Cannot read {what} from {path}"), safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def read_arrays(path: Path, what: str, names: Collection[str] | None = None) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of an `.npz` or `.npy` file; the single one of a `.npy` file has an empty name.

    The sizes in the headers are checked before memory is allocated, and pickled content is rejected.

    Args:
        path: The file.
        what: The content in words.
        names: The arrays to read, where they exist; the others may have any size. None for all.

    Raises:
        BadFile: The file is missing, damaged, too large, or holds other objects than numbers.
    """
    with library_errors(f"Cannot read {what} from {path}"):
        if not zipfile.is_zipfile(path):
            if path.stat().st_size > _ARRAY_BYTES:
                raise ValueError(f"it is larger than {_ARRAY_BYTES >> 20} MiB")
            return {"": _array(path.read_bytes())}
        with zipfile.ZipFile(path) as archive:
            arrays = (member for member in archive.infolist() if member.filename.endswith(".npy"))
            members = {member.filename.removesuffix(".npy"): member for member in arrays}
            wanted = {name: member for name, member in members.items() if names is None or name in names}
            if sum(member.file_size for member in wanted.values()) > _ARRAY_BYTES:
                raise ValueError(f"its arrays are larger than {_ARRAY_BYTES >> 20} MiB")
            return {name: _array(archive.read(member)) for name, member in wanted.items()}


def _array(content: bytes) -> NDArray[np.generic]:
    """The array, of any shape, of the bytes of a `.npy` file."""
    import numpy as np

    file = BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, in_columns, dtype = read(file)
    if dtype.kind not in "fiub":
        raise ValueError(f"its numbers are of the type {dtype}")
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError("its size is not the one in its header")
    flat = np.frombuffer(content, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if in_columns else "C")


def check_tensors(tensors: Mapping[str, Tensor], what: str, finite: bool = True) -> None:
    """Check that tensors, of any shape, hold real numbers of a common type, all finite.

    Args:
        tensors: By name.
        what: The content in words, with its file, as the beginning of a sentence.
        finite: Whether NaN and infinity are rejected.

    Raises:
        BadFile: A tensor is complex, in a storage format such as fp8, or not finite.
    """
    import torch

    types = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8)
    types += (torch.bool, torch.int8, torch.int16)
    for name, tensor in tensors.items():
        if tensor.dtype not in types:
            raise BadFile(f"{what} has numbers of the type {tensor.dtype} in {name[:80]}; efface computes with others.")
        if finite and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BadFile(f"{what} has numbers that are not finite in {name[:80]}.")


def read_pickle(path: Path) -> Any:
    """Load a file that `torch.save` wrote, on the CPU, without running code. Tensors of archives are read on demand.

    Args:
        path: The file.

    Raises:
        BadFile: The file is missing or damaged, holds more than tensors, or its tensors are larger than the file.
    """
    import torch

    try:
        with library_errors(f"{path} is no checkpoint, or is cut short or damaged", pickle.UnpicklingError):
            is_archive = zipfile.is_zipfile(path)  # files from before torch 1.6 are none
            size = path.stat().st_size
            if is_archive:
                with zipfile.ZipFile(path) as archive:
                    if sum(member.file_size for member in archive.infolist()) > size:
                        raise ValueError("its header names more bytes than the file has")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
            _check_tensors_of(content, size)
            return content
    except pickle.UnpicklingError as error:
        match = _GLOBAL.search(str(error))
        named = f" ({match[1][:80]})" if match else ""
        raise BadFile(
            f"{path} is damaged, or holds more than tensors{named}: efface runs no code from a file, so save its "
            "state_dict as safetensors on a machine where you trust it."
        ) from error


def _check_tensors_of(content: object, size: int) -> None:
    """Check the nesting of an unpickled content, and that none of its tensors is larger than the file."""
    import torch

    for item in leaves(content):
        if isinstance(item, torch.Tensor):
            if item.layout is not torch.strided or item.is_quantized:
                raise ValueError("a tensor is sparse or quantised")
            if item.numel() * item.element_size() > size:
                raise ValueError("a tensor is larger than the file")
