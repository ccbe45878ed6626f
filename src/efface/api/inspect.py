"""`efface.inspect`: the content of an eraser, or the properties of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.arguments import model_from, runtime_from
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult, eraser_json
from efface.eraser.certificate import certify as with_certificate
from efface.eraser.certificate import uncertified
from efface.eraser.eraser import Eraser
from efface.eraser.file import header_of, write_record
from efface.errors import BadInput, BadRequest
from efface.files import check_suffix, exists_already
from efface.rerun import check_new_or_same, write_or_compare

if TYPE_CHECKING:
    from efface.api.arguments import DeviceLike, ModelLike
    from efface.models import Model


@dataclass(frozen=True)
class Component:
    """A part of an eraser.

    Attributes:
        concepts: The concepts that it erases: one, or all where the method erased them jointly.
        rank: The largest rank among its edits.
        bytes: The size of its edits.
    """

    concepts: Sequence[str]
    rank: int
    bytes: int


@dataclass(frozen=True)
class EraserInfo(VerbResult):
    """The content of an eraser.

    Attributes:
        eraser: Its file; None for an eraser in memory.
        method: The method that solved it.
        concepts: The concepts that it erases.
        kind_of_edit: How it acts: text, weight or guard.
        rank: The largest rank among its edits.
        bytes: The size of the edits alone.
        file_bytes: The size of the file; None for an eraser in memory.
        hash: SHA-256 of the edits.
        components: Size and rank by concept.
        certificate: By concept `free`, `text` and `ceiling`; None without a certificate.
        header: Format, request, edits, base, provenance and parts, as in the file's header.
        existed: Whether the same file with its certificate was there before, so that nothing was written.
    """

    eraser: str | None
    method: str
    concepts: Sequence[str]
    kind_of_edit: str
    rank: int
    bytes: int
    file_bytes: int | None
    hash: str
    components: Sequence[Component]
    certificate: Mapping[str, Mapping[str, float | None]] | None
    header: Mapping[str, Any]
    existed: bool = False

    def to_json(self) -> dict[str, Any]:
        """The object that `efface inspect --json` prints: the header's keys stand beside the others."""
        content = super().to_json()
        header = content.pop("header")
        return {**content, **header}


@dataclass(frozen=True)
class ModelInfo(VerbResult):
    """The properties of a model.

    Attributes:
        model: The name that it was opened by.
        family: Its family.
        hash: SHA-256 of its weights.
        text_width: The width of the text embedding.
        max_tokens: The number of tokens in a prompt.
        text_parameters: The weights that read the text, or the reason why no weights do.
        streams: By text stream, its width, the argument of the denoiser, and the weights that read it.
        objects: The objects that a model of a closed world can draw; None for other models.
        styles: The styles that a model of a closed world can draw in; None for other models.
    """

    model: str
    family: str
    hash: str
    text_width: int
    max_tokens: int
    text_parameters: Sequence[str] | str
    streams: Mapping[str, Mapping[str, Any]]
    objects: Sequence[str] | None
    styles: Sequence[str] | None


@none_is_not_given
def inspect(
    subject: Eraser | ModelLike,
    *,
    certify: bool = False,
    model: ModelLike = "emoji",
    out: Path | str | None = None,
    device: DeviceLike = "auto",
    force: bool = False,
) -> EraserInfo | ModelInfo:
    """Inspect an eraser or a model.

    Example:
        >>> efface.inspect("cat.safetensors").components
        [Component(concepts=['cat'], rank=1, bytes=1536)]

    Args:
        subject: An eraser or its file; or a model, a diffusers pipeline, or the name or folder of a model. The file of
            a single-file checkpoint is taken for an eraser: open it with `efface.open_model` first.
        certify: Compute the eraser's certificate for `model`.
        model: The model that the certificate is for.
        out: The file to write the eraser with its certificate to.
        device: The device to open a model's name on, or an `efface.Runtime`.
        force: Whether an existing file may be replaced.

    Raises:
        BadInput: There is no such eraser or model, or a certificate is not possible.
    """
    where = runtime_from(device)
    path = Path(subject) if isinstance(subject, (str, Path)) and _is_eraser_file(str(subject)) else None
    eraser = Eraser.load(path) if path else subject if isinstance(subject, Eraser) else None
    if certify and eraser is None:
        raise BadInput("--certify bounds how far an eraser can be undone; give the eraser's file, and --model.")
    if out is not None and not certify:
        raise BadInput("-o is where an eraser is written with its certificate; add --certify.")
    if out is not None:
        check_suffix(Path(out), ".safetensors")
        check_new_or_same(Path(out), force)
    if eraser is None:
        assert not isinstance(subject, Eraser)
        return model_info(model_from(subject, where))
    if out is not None and Path(out).is_file() and not force and not _is_certified(Path(out), eraser):
        raise exists_already(Path(out))
    existed = False
    if certify:
        eraser = with_certificate(model_from(model, where), eraser)
        if out is not None and eraser.certificate is not None:
            existed = write_or_compare(Path(out), force, partial(write_record, eraser, force=True))
    return replace(eraser_info(eraser, path), existed=existed)


def eraser_info(eraser: Eraser, path: Path | None = None) -> EraserInfo:
    """The content of an eraser.

    Args:
        eraser: The eraser.
        path: Its file; None for an eraser in memory.
    """
    return EraserInfo(
        **eraser_json(eraser, path),
        file_bytes=None if path is None else path.stat().st_size,
        hash=eraser.hash,
        components=_components(eraser),
        certificate=eraser.certificate,
        header=header_of(eraser),
    )


def model_info(model: Model) -> ModelInfo:
    """The properties of an open model."""
    world = model.world
    return ModelInfo(
        model=model.name,
        family=model.family,
        hash=model.hash,
        text_width=model.width,
        max_tokens=model.max_tokens,
        text_parameters=_text_parameters(model),
        streams={
            stream: {"width": reader.width, "argument": argument, "text_parameters": _text_parameters(reader)}
            for stream, argument in model.streams.items()
            for reader in [model.reading(stream)]
        },
        objects=world and [thing.name for thing in world.objects],
        styles=world and [style.name for style in world.styles],
    )


def _is_certified(path: Path, eraser: Eraser) -> bool:
    """Whether a file has an eraser with a certificate, which may be another one."""
    try:
        stored = Eraser.load(path)
    except BadInput:
        return False
    return stored.hash == eraser.hash and stored.certificate is not None


def _is_eraser_file(name: str) -> bool:
    return Path(name).is_file() or name.lower().endswith(".safetensors")


def _components(eraser: Eraser) -> list[Component]:
    """The part of each concept; one component of all concepts where the method erased them jointly."""
    bare = uncertified(eraser)  # a certificate of each part would take longer than solving for it
    try:
        parts = [([name], bare.only(name)) for name in eraser.concepts]
    except BadRequest:
        parts = [(list(eraser.concepts), eraser)]
    return [Component(names, part.rank, part.nbytes) for names, part in parts]


def _text_parameters(model: Model) -> list[str] | str:
    try:
        return list(model.text_parameters())
    except BadInput as error:
        return str(error)
