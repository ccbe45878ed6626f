"""An eraser as one safetensors file: its tensors, and in the header, as JSON, everything else.

The header carries a SHA-256 over itself and the tensors, so that a file altered on its way is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from efface.apply.guard import GUARDS
from efface.edits.kinds import GuardEdit, describe, edit_from
from efface.eraser.record import Base, EraserRecord
from efface.eraser.schema import Header, check_inputs
from efface.errors import BadFile
from efface.files import atomic, sha256_of_tensors
from efface.json_writing import json_text
from efface.parsing import check_values, library_errors, parse_json
from efface.request.record import Request, folded
from efface.tensor_files import check_tensors, read_safetensors
from efface.tensor_writing import write_tensors

FORMAT = 1
_KEY = "efface"


def write_record(eraser: EraserRecord, path: Path, force: bool) -> None:
    """Write an eraser, completely or not at all.

    Args:
        eraser: The eraser.
        path: The file.
        force: Replace an existing file.

    Raises:
        BadFile: The file exists and `force` is false, it cannot be written, or a number of the eraser is not finite.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(eraser).items()}
    header = header_of(eraser)
    with library_errors(f"Cannot write {path}"):
        check_values(header)  # what is not finite could not be read again
        check_tensors(tensors, "the eraser")
    header["sha256"] = _seal(header, tensors)
    with atomic(path, force) as temporary:
        write_tensors(temporary, tensors, {_KEY: json_text(header, ascii_only=True)})


def _tensors(eraser: EraserRecord) -> dict[str, Tensor]:
    """All tensors of an eraser by their names in the file; a composed one's edits are those of its parts."""
    tensors = {f"input.{name}": tensor for name, tensor in eraser.inputs.items()}
    tensors["base.embeddings"] = eraser.base.embeddings
    tensors |= {f"base.stream.{name}": tensor for name, tensor in eraser.base.streams.items()}
    for index, part in enumerate(eraser.parts):
        tensors |= {f"part.{index}.{name}": tensor for name, tensor in _tensors(part).items()}
    for index, edit in enumerate(() if eraser.parts else eraser.edits):
        tensors |= {f"edit.{index}.{name}": tensor for name, tensor in edit.tensors().items()}
    return tensors


def header_of(eraser: EraserRecord) -> dict[str, Any]:
    """What an eraser's file says about it, as JSON values."""
    base = eraser.base
    return {
        "format": FORMAT,
        "request": eraser.request.model_dump(mode="json"),
        "edits": [describe(edit) for edit in eraser.edits],
        "base": {
            "model": base.model,
            "family": base.family,
            "hash": base.hash,
            "probes": list(base.probes),
            "parameters": {name: dict(digests) for name, digests in base.parameters.items()},
        },
        "provenance": dict(eraser.provenance),
        "parts": [header_of(part) for part in eraser.parts],
    }


def read_record(path: Path) -> EraserRecord:
    """Read an eraser.

    Raises:
        BadFile: The file is missing, truncated, altered, or not an eraser.
    """
    header, tensors = _read(path)
    if header.get("format") != FORMAT:
        raise BadFile(f"{path} has the eraser format {header.get('format')}; this efface reads {FORMAT}: upgrade it.")
    if header.pop("sha256", None) != _seal(header, tensors):
        raise BadFile(f"{path} was altered after it was written: its checksum does not fit; make or fetch it again.")
    with library_errors(f"{path} is not a complete eraser"):
        Header.model_validate(header)
        return _eraser(header, tensors)


def is_eraser_file(path: Path) -> bool:
    """Whether a file is an eraser that efface wrote, complete or not; a damaged file counts as one."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return _KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return True


def _eraser(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> EraserRecord:
    parts = tuple(
        _eraser(part, _under(f"part.{index}.", tensors)) for index, part in enumerate(header.get("parts", ()))
    )
    edits = tuple(
        edit_from(description, _under(f"edit.{index}.", tensors))
        for index, description in enumerate(() if parts else header["edits"])
    )
    for edit in edits:
        check_tensors(edit.tensors(), "an edit")
        if isinstance(edit, GuardEdit) and edit.guard in GUARDS.names():
            GUARDS.get(edit.guard).check(edit)
    base, request = header["base"], Request.model_validate(header["request"])
    embeddings, inputs = tensors["base.embeddings"], _under("input.", tensors)
    if embeddings.ndim != 2 or (base["probes"] and (not len(embeddings) or len(embeddings) % len(base["probes"]))):
        raise BadFile(f"the embeddings of the probes have the shape {tuple(embeddings.shape)}")
    of_base = {name: tensor for name, tensor in tensors.items() if name.startswith("base.")}
    check_tensors(of_base, "the base")
    if any(not tensor.is_floating_point() or tensor.ndim != 2 for tensor in of_base.values()):
        raise BadFile("the embeddings of the probes are not rows of real numbers")
    _check_consistent(header, request, parts)
    check_inputs(inputs, request.method, len(request.concepts), embeddings.shape[1] if base["probes"] else None)
    return EraserRecord(
        request=request,
        edits=tuple(edit for part in parts for edit in part.edits) or edits,
        base=Base(
            model=base["model"],
            family=base["family"],
            hash=base["hash"],
            probes=tuple(base["probes"]),
            embeddings=embeddings,
            parameters=base.get("parameters", {}),
            streams=_under("base.stream.", tensors),
        ),
        inputs=inputs,
        provenance=header["provenance"],
        parts=parts,
    )


def _check_consistent(header: Mapping[str, Any], request: Request, parts: Sequence[EraserRecord]) -> None:
    """Check that what the header has in two places is the same: the concepts, and the edits of a composed eraser.

    Args:
        header: The header.
        request: Its request.
        parts: The erasers that it is composed of, if any.

    Raises:
        BadFile: It is not.
    """
    names = set(map(folded, request.names))
    if certificate := header["provenance"].get("certificate"):
        _check_same("concepts of the certificate", names, set(map(folded, certificate["concepts"])))
    if parts:
        _check_same("concepts of the parts", names, {folded(name) for part in parts for name in part.concepts})
        if header["edits"] != [edit for part in header["parts"] for edit in part["edits"]]:
            raise BadFile("its edits are not those of its parts")


def _check_same(what: str, names: set[str], others: set[str]) -> None:
    if differ := names ^ others:
        raise BadFile(f"the {what} are not those of the request: '{min(differ)[:60]}' is only in one of them")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise BadFile(f"There is no eraser file {path}.")
    metadata, tensors = read_safetensors(path, "an eraser")
    if _KEY not in metadata:
        raise BadFile(f"{path} is a safetensors file, but not an eraser that efface wrote.")
    with library_errors(f"Cannot read an eraser from {path}"):
        header = parse_json(metadata[_KEY])
    if not isinstance(header, dict):
        raise BadFile(f"{path} is a safetensors file, but not an eraser that efface wrote.")
    return cast(dict[str, Any], header), tensors


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _seal(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    text = json.dumps(header, sort_keys=True) + sha256_of_tensors(tensors)
    return hashlib.sha256(text.encode()).hexdigest()
