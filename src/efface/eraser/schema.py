"""The schema of an eraser's file: the header's records, and the types and shapes of its tensors.

Shapes: n concepts, t edited tokens, p preserved tokens, d text width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from torch import Tensor

from efface.errors import BadFile
from efface.methods import METHODS
from efface.parsing import Schema
from efface.settings import Scalar
from efface.tensor_files import check_tensors


class TextEditHeader(Schema):
    """A text edit without its tensors."""

    edit: Literal["text"]
    stream: str


class WeightEditHeader(Schema):
    """A weight edit without its tensors."""

    edit: Literal["weight"]
    parameter: str = Field(min_length=1)


class GuardEditHeader(Schema):
    """A guard without its tensors."""

    edit: Literal["guard"]
    guard: str
    settings: dict[str, Scalar]


class BaseHeader(Schema):
    """The base model without the embeddings of the probes."""

    model: str
    family: str
    hash: str
    probes: list[str]
    parameters: dict[str, dict[str, str]] = Field(default_factory=dict[str, dict[str, str]])


class CertificateHeader(Schema):
    """The certificate of an operator."""

    fingerprint: str
    concepts: dict[str, dict[str, float | None]]


class EarlierEraser(Schema):
    """An eraser on which another one was solved."""

    model_config = ConfigDict(extra="allow")

    concepts: list[str]


class StreamHeader(Schema):
    """The solution of one of several text streams."""

    edits: int = Field(ge=0)
    provenance: dict[str, Any]


class ProvenanceHeader(Schema):
    """The part of the provenance that efface reads; methods add further keys."""

    model_config = ConfigDict(extra="allow")

    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    versions: dict[str, str] = Field(default_factory=dict[str, str])
    seconds: dict[str, float] = Field(default_factory=dict[str, float])
    guide_from: dict[str, str] = Field(default_factory=dict[str, str])
    settings_from: dict[str, str] = Field(default_factory=dict[str, str])
    certificate: CertificateHeader | None = None
    after: list[EarlierEraser] | None = None
    solved_on: str | None = None
    applied: str | None = None
    streams: dict[str, StreamHeader] = Field(default_factory=dict[str, StreamHeader])
    shares: list[dict[str, dict[str, float]]] | None = Field(default=None, min_length=1)


EditHeader = Annotated[TextEditHeader | WeightEditHeader | GuardEditHeader, Field(discriminator="edit")]


class Header(Schema):
    """What the header of an eraser's file has, besides its checksum. `Request` checks the request."""

    format: int
    request: dict[str, Any]
    edits: list[EditHeader]
    base: BaseHeader
    provenance: ProvenanceHeader
    parts: list[Header] = Field(default_factory=list["Header"])


#: The inputs of the closed forms that have one row per token, each with the input that names the tokens' concepts.
_OWNERS = {"edited": "owner", "guides": "owner", "found": "found.owner", "found.guides": "found.owner"}
#: The inputs that have d columns, with their numbers of dimensions.
_DIMENSIONS = {
    "edited": 2,
    "found": 2,
    "found.guides": 2,
    "preserve.rows": 2,
    "preserve.gram": 2,
    "empty": 2,
    "S": 2,
    "preserve.empty": 2,
    "concepts": 3,
    "certificate.tokens": 3,
    "certificate.guides": 3,
    "certificate.gamma": 1,
    "certificate.beta": 1,
}
_SQUARE = ("S", "preserve.gram")
_PREFIXES = ("uce.",)
_CERTIFICATE = "certificate."


def check_inputs(inputs: Mapping[str, Tensor], method: str, concepts: int, width: int | None) -> None:
    """Check the inputs of an eraser whose names the closed forms and certificates share.

    A method of another package names its inputs as it likes, except those of certificates.

    Args:
        inputs: The tensors by name; those of one of several text streams begin with its name and "/".
        method: The name of the eraser's method.
        concepts: The number of concepts.
        width: The text width d of the only text stream; None if it is not known.

    Raises:
        BadFile: A tensor has another type or shape, or names a concept that is not there.
    """
    check_tensors(inputs, "The eraser")
    groups: dict[str, dict[str, Tensor]] = {}
    shared = METHODS.is_builtin(method)
    for name, tensor in inputs.items():
        if not shared and not name.rpartition("/")[2].startswith(_CERTIFICATE):
            continue
        stream, _, rest = name.rpartition("/")
        inner = next((prefix for prefix in _PREFIXES if rest.startswith(prefix)), "")
        groups.setdefault(f"{stream}/{inner}", {})[rest.removeprefix(inner)] = tensor
    for group in groups.values():
        _check_group(group, concepts, None if any("/" in name for name in inputs) else width)


def _check_group(inputs: Mapping[str, Tensor], concepts: int, width: int | None) -> None:
    widths = {name: inputs[name].shape[-1] for name in _DIMENSIONS if name in inputs and inputs[name].ndim}
    width = width or next(iter(widths.values()), None)
    for name, ndim in _DIMENSIONS.items():
        if name in inputs and (inputs[name].ndim != ndim or widths[name] != width):
            raise _misshapen(name, inputs[name])
    for name in _SQUARE:
        if name in inputs and len(inputs[name]) != width:
            raise _misshapen(name, inputs[name])
    for name, owner in _OWNERS.items():
        if name in inputs and owner in inputs and len(inputs[name]) != len(inputs[owner]):
            raise _misshapen(name, inputs[name])
    for name in set(_OWNERS.values()) & inputs.keys():
        _check_whole(name, inputs[name], 1, concepts)
    if "preserve.count" in inputs:
        _check_whole("preserve.count", inputs["preserve.count"], 0, None)
    if (lengths := inputs.get("preserve.lengths")) is not None:
        _check_whole("preserve.lengths", lengths, 1, None)
        if "preserve.rows" in inputs and int(lengths.sum()) != len(inputs["preserve.rows"]):
            raise _misshapen("preserve.lengths", lengths)


def _check_whole(name: str, tensor: Tensor, ndim: int, below: int | None) -> None:
    """Check a tensor of whole numbers from 0, and below a bound."""
    if tensor.is_floating_point() or tensor.ndim != ndim:
        raise _misshapen(name, tensor)
    if tensor.numel() and (int(tensor.min()) < 0 or (below is not None and int(tensor.max()) >= below)):
        raise BadFile(f"the input {name} has the number {int(tensor.max())}, which is out of range")


def _misshapen(name: str, tensor: Tensor) -> BadFile:
    return BadFile(f"the input {name} has the type {tensor.dtype} and the shape {tuple(tensor.shape)}")
