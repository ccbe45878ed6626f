"""Files of efface's own work with a checksum, so that a damaged one is computed again and never used.

Caches have the checksum in a file beside each entry. States of a training have it in their own header, because a state
and a file beside it could not be replaced at the same moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from efface.errors import BadFile
from efface.files import atomic, sha256_of_tensors
from efface.json_writing import json_text
from efface.parsing import library_errors, parse_json
from efface.tensor_files import read_safetensors

if TYPE_CHECKING:
    from torch import Tensor

_HEADER, _SEAL = "efface", "sha256"


def write_sealed(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a header and tensors with their checksum as one safetensors file, completely or not at all.

    Args:
        path: The file, which is replaced if it exists.
        header: JSON values.
        tensors: By name, of any shape.

    Raises:
        BadFile: The file cannot be written.
    """
    from efface.tensor_writing import write_tensors

    text = json_text(header, ascii_only=True)
    with atomic(path) as temporary:
        write_tensors(temporary, tensors, {_HEADER: text, _SEAL: _seal(text, tensors)})


def read_sealed(path: Path, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `write_sealed` wrote.

    Args:
        path: The file.
        what: The content in words.

    Returns:
        The header, and the tensors by name, of any shape.

    Raises:
        BadFile: The file is missing or damaged.
    """
    metadata, tensors = read_safetensors(path, what)
    text = metadata.get(_HEADER, "")
    if metadata.get(_SEAL) != _seal(text, tensors):
        raise BadFile(f"Cannot read {what} from {path}: its checksum does not fit.")
    with library_errors(f"Cannot read {what} from {path}"):
        header = parse_json(text)
    return cast(dict[str, Any], header), tensors


def _seal(text: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256((text + sha256_of_tensors(tensors)).encode()).hexdigest()
