"""`efface.import_eraser`: a checkpoint of an edited model, or a LoRA, as an eraser."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from efface.api.arguments import model_from
from efface.edits.kinds import WeightEdit
from efface.eraser.base_check import base_of, with_parameters
from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.files import sha256_of_file
from efface.formats.lora import is_kohya, is_lora, lora_edits
from efface.formats.reading import read_checkpoint
from efface.formats.weights import weight_edits
from efface.provenance import versions
from efface.request.record import Request

if TYPE_CHECKING:
    import torch

    from efface.api.arguments import ModelLike

IMPORTED = "imported"
Format = Literal["auto", "weights", "lora", "kohya"]
FORMATS: tuple[Format, ...] = get_args(Format)


def import_eraser(
    path: Path | str,
    model: ModelLike,
    concepts: str | Sequence[str],
    to: str | Sequence[str] = (),
    *,
    kind: str = "object",
    format: str = "auto",
    ema: bool = False,
    device: str | torch.device = "auto",
) -> Eraser:
    """Make an eraser of the difference between an edited checkpoint, or a LoRA, and its base model.

    Example:
        >>> eraser = efface.import_eraser("erased.pt", "sd-folder", "Van Gogh", kind="style")
        >>> eraser.provenance["settings"]["format"]
        'weights'

    Args:
        path: A `.safetensors` file, or one that `torch.save` wrote: complete weights, all or some of them, by the names
            of diffusers or CompVis, or a LoRA. No code in it is run.
        model: The base model that was edited.
        concepts: What the file erases, which the file itself does not say.
        to: What it generates instead, if that is known.
        kind: Kind of the concepts: object, style, memorised or unsafe.
        format: The format that the file must have: weights, lora or kohya; `auto` detects it.
        ema: Read the exponential moving averages of a CompVis checkpoint.
        device: The device to open a model's name on.

    Raises:
        BadInput: The file cannot be read, is for another model, or changes nothing.
    """
    path, started = Path(path), time.perf_counter()
    if format not in FORMATS:
        raise BadInput(f"Unknown format '{format}'; there is: {', '.join(FORMATS)}.")
    request = Request.make(concepts, to, kind=kind, method=IMPORTED)
    checkpoint = read_checkpoint(path)
    if "efface" in checkpoint.metadata:
        raise BadInput(f"{path} is an eraser of efface already; use it as it is.")
    detected = "weights" if not is_lora(checkpoint) else "kohya" if is_kohya(checkpoint) else "lora"
    if format not in ("auto", detected):
        raise BadInput(f"{path} is of the format {detected}, not {format}; leave out --format.")
    if ema and detected != "weights":
        raise BadInput(f"{path} is a LoRA, which has no EMA weights; leave out --ema.")
    opened = model_from(model, device)
    solving = time.perf_counter()
    edits: list[WeightEdit] = list(
        weight_edits(checkpoint, opened, ema) if detected == "weights" else lora_edits(checkpoint, opened)
    )
    if not edits:
        raise BadInput(f"{path} is {opened.name} itself: it changes nothing, so there is nothing to import.")
    settings = {"format": detected, "ema": ema, "file": path.name, "sha256": sha256_of_file(path)}
    base = base_of(opened, opened.embed(request.names, truncate=True))
    seconds = {"embed": solving - started, "solve": time.perf_counter() - solving}
    provenance = {"settings": settings, "versions": versions(), "seconds": seconds}
    return with_parameters(Eraser(request, tuple(edits), base, {}, provenance), opened)
