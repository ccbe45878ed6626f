"""What researchers have already, as erasers: checkpoints of edited models, and LoRA files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from efface.edits.kinds import WeightEdit
from efface.eraser.base import with_parameters
from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.files import sha256_of_file
from efface.formats.lora import is_kohya, is_lora, lora_edits
from efface.formats.reading import read_checkpoint
from efface.formats.weights import weight_edits
from efface.methods.closed_form.tokens import base_of, provenance
from efface.models import Model, open_model
from efface.request.record import Request

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

IMPORTED = "imported"
Format = Literal["auto", "weights", "lora", "kohya"]
FORMATS: tuple[Format, ...] = get_args(Format)


def import_eraser(
    path: Path | str,
    model: Model | DiffusionPipeline | str,
    concepts: str | Sequence[str],
    to: str | Sequence[str] = (),
    *,
    kind: str = "object",
    format: str = "auto",
    ema: bool = False,
) -> Eraser:
    """An eraser that makes of its base what a file holds.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote: whole weights, all or some, by diffusers' or
            CompVis' names, or a LoRA. No code in it is run.
        model: the base that it was made from.
        concepts: what the file erases, which it does not say itself.
        to: what it draws instead, where that is known.
        kind: object, style, memorised or unsafe.
        format: what the file must be: weights, lora or kohya; `auto` finds out.
        ema: take a CompVis checkpoint's exponential moving averages.

    Raises:
        BadInput: the file cannot be read, is for another model, or is the model itself.
    """
    path, started = Path(path), time.perf_counter()
    if format not in FORMATS:
        raise BadInput(f"Unknown format '{format}'; there is: {', '.join(FORMATS)}.")
    request = Request.make(concepts, to, kind=kind, method=IMPORTED)
    checkpoint = read_checkpoint(path)
    if "efface" in checkpoint.metadata:
        raise BadInput(f"{path} is an eraser of efface already; use it as it is.")
    found = "weights" if not is_lora(checkpoint) else "kohya" if is_kohya(checkpoint) else "lora"
    if format not in ("auto", found):
        raise BadInput(f"{path} is of the format {found}, not {format}; leave --format away.")
    if ema and found != "weights":
        raise BadInput(f"{path} is a LoRA, which has no EMA weights; leave --ema away.")
    opened = model if isinstance(model, Model) else open_model(model)
    solving = time.perf_counter()
    edits: list[WeightEdit] = list(
        weight_edits(checkpoint, opened, ema) if found == "weights" else lora_edits(checkpoint, opened)
    )
    if not edits:
        raise BadInput(f"{path} is {opened.name} itself: it changes nothing, so there is nothing to import.")
    settings = {"format": found, "ema": ema, "file": path.name, "sha256": sha256_of_file(path)}
    base = base_of(opened, opened.embed(request.names, truncate=True))
    told = provenance(settings, started, solving)
    return with_parameters(Eraser(request, tuple(edits), base, {}, told), opened)
