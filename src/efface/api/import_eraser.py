"""`efface.import_eraser`: a checkpoint of an edited model, or a LoRA, as an eraser."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from efface.api.arguments import model_from
from efface.api.optional import none_is_not_given
from efface.edits.kinds import WeightEdit
from efface.eraser.base_check import base_of, with_parameters
from efface.eraser.eraser import Eraser
from efface.eraser.file import write_record
from efface.errors import BadFile, BadInput, NothingToImport
from efface.files import cache_folder, from_cache, keep_in_cache, sha256_of_file
from efface.formats.layers import concept_of_layers, read_layers
from efface.formats.lora_reader import is_kohya, is_lora, lora_edits
from efface.formats.reading import Checkpoint, read_checkpoint
from efface.formats.weights import weight_edits
from efface.models import Model
from efface.models.storage.single_file import EMA
from efface.parsing import library_errors
from efface.provenance import versions
from efface.request.record import Request

if TYPE_CHECKING:
    from efface.api.arguments import DeviceLike, ModelLike

IMPORTED = "imported"
Format = Literal["auto", "weights", "lora", "kohya", "layers"]
FORMATS: tuple[Format, ...] = get_args(Format)
_LOGGER = logging.getLogger(__name__)
_VERSION = 1  # of the cache; raised when the same file gives another eraser


@none_is_not_given
def import_eraser(
    path: Path | str,
    model: ModelLike,
    concepts: str | Sequence[str] = (),
    to: str | Sequence[str] | None = (),
    *,
    kind: str = "object",
    format: str = "auto",
    ema: bool = False,
    device: DeviceLike = "auto",
) -> Eraser:
    """Make an eraser of the difference between an edited checkpoint, or a LoRA, and its base model.

    Example:
        >>> eraser = efface.import_eraser("erased.pt", "sd-folder", "Van Gogh", kind="style")
        >>> eraser.provenance["settings"]["format"]
        'weights'

    Args:
        path: A `.safetensors` file, or one that `torch.save` wrote: complete weights, all or some of them, by the names
            of diffusers or CompVis, or a LoRA; or a folder with one layer per file, as an entry to the U&ME challenge
            writes it. No code in it is run. The suffix `#ema` is short for `ema`.
        model: The base model that was edited.
        concepts: What the file erases, which the file itself does not say; a folder of layers says it.
        to: What it generates instead, if that is known.
        kind: Kind of the concepts: object, style, memorised or unsafe.
        format: The format that the file must have: weights, lora, kohya or layers; `auto` detects it.
        ema: Read the exponential moving averages of a CompVis checkpoint.
        device: The device to open a model's name on, or an `efface.Runtime`.

    Raises:
        BadInput: The file cannot be read, is for another model, or changes nothing; or no concept is known.
    """
    path, ema = _without_suffix(path, ema)
    if format not in FORMATS:
        raise BadInput(f"Unknown format '{format}'; there is: {', '.join(FORMATS)}.")
    if not concepts and path.is_dir():
        concepts = concept_of_layers(path) or ()
    if not concepts:
        raise BadInput(f"Name what {path} erases with --concept; a file of weights does not say it.")
    request = Request.make(concepts, to, kind=kind, method=IMPORTED)
    return _imported(path, model_from(model, device), request, format, ema)


def imported_eraser(path: Path | str, model: ModelLike, device: DeviceLike = "auto") -> Eraser:
    """The eraser of another tool's file, for the verbs that take erasers. It is imported once and cached.

    The log names the detected format. The concept is named after the file, unless the file says it; such a name is
    marked in the provenance (`named_by`), because it is not a word to judge images by.

    Args:
        path: A file or folder that `import_eraser` reads.
        model: The base model that was edited.
        device: The device to open a model's name on, or an `efface.Runtime`.

    Raises:
        BadInput: The file cannot be read, is for another model, or changes nothing.
    """
    file, ema = _without_suffix(path, ema=False)
    opened = model_from(model, device)
    digest = _digest(file)
    key = f"{digest[:32]}-{opened.hash[:32]}{'-ema' if ema else ''}-{_VERSION}"
    place = cache_folder() / "imported" / f"{key}.safetensors"
    eraser = _cached(place)
    if eraser is None:
        concept = concept_of_layers(file) if file.is_dir() else None
        request = Request.make(concept or _words(file), method=IMPORTED)
        eraser = _imported(file, opened, request, "auto", ema, digest)
        if concept is None:
            settings = {**eraser.provenance["settings"], "named_by": "file"}
            eraser = replace(eraser, provenance={**eraser.provenance, "settings": settings})
        record = eraser
        keep_in_cache(place, lambda temporary: write_record(record, temporary, force=True))
    _LOGGER.info("%s: imported, format %s", path, eraser.provenance["settings"]["format"])
    return eraser


def _words(file: Path) -> str:
    """A file's name in words."""
    return " ".join(re.findall(r"[^\W_]+", file.stem)) or "concept"


def _cached(place: Path) -> Eraser | None:
    """The cached eraser; None if there is none, or its file is damaged."""
    try:
        return None if from_cache(place) is None else Eraser.load(place)
    except BadFile:
        return None


def _without_suffix(path: Path | str, ema: bool) -> tuple[Path, bool]:
    """The file, and whether its averaged weights are meant."""
    name = str(path)
    return Path(name.removesuffix(EMA)), ema or name.endswith(EMA)


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder."""
    if path.is_file():
        return sha256_of_file(path)
    if not path.is_dir():
        raise BadFile(f"There is no eraser file {path}.")
    files = {file.name: sha256_of_file(file) for file in sorted(path.iterdir()) if file.is_file()}
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _imported(path: Path, model: Model, request: Request, format: str, ema: bool, digest: str | None = None) -> Eraser:
    """The eraser of a file with a known concept; `digest` is the file's, if it is known."""
    started = time.perf_counter()
    checkpoint = read_layers(path) if path.is_dir() else read_checkpoint(path)
    if "efface" in checkpoint.metadata:
        raise BadInput(f"{path} is an eraser of efface already; use it as it is.")
    detected = "layers" if path.is_dir() else _format(checkpoint)
    if format not in ("auto", detected):
        raise BadInput(f"{path} is of the format {detected}, not {format}; leave out --format.")
    if ema and detected != "weights":
        raise BadInput(f"{path} is no complete checkpoint and has no EMA weights; leave out --ema and {EMA}.")
    solving = time.perf_counter()
    with library_errors(f"Cannot import {path}"):
        edits: list[WeightEdit] = list(
            lora_edits(checkpoint, model) if is_lora(checkpoint) else weight_edits(checkpoint, model, ema)
        )
    if not edits:
        raise NothingToImport(f"{path} is {model.name} itself: it changes nothing, so there is nothing to import.")
    settings = {"format": detected, "ema": ema, "file": path.name, "sha256": digest or _digest(path)}
    base = base_of(model, model.embed(request.names, truncate=True))
    seconds = {"embed": solving - started, "solve": time.perf_counter() - solving}
    provenance = {"settings": settings, "versions": versions(), "seconds": seconds}
    return with_parameters(Eraser(request, tuple(edits), base, {}, provenance), model)


def _format(checkpoint: Checkpoint) -> str:
    if not is_lora(checkpoint):
        return "weights"
    return "kohya" if is_kohya(checkpoint) else "lora"
