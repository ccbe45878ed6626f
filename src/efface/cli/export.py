"""`efface export`: an eraser in another tool's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Device, Force, Json, Model, UnusedSeed
from efface.cli.runtime import with_runtime
from efface.errors import BadInput


@with_runtime(generates=False)
def export_command(
    eraser: Annotated[Path, typer.Argument(metavar="ERASER", help="The file of an eraser.")],
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="lora, kohya, diffusers, single-file, uce, esd or text-encoder."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", metavar="R", min=1, help="Largest rank of a LoRA; the error of the cut is printed."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="PATH", help="Output file, or folder.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Write an eraser for another tool: a LoRA, a complete model, or complete edited weights.

    Example: efface export cat.safetensors --format kohya -o cat-lora.safetensors
    """
    from efface.cli.output import Screen
    from efface.files import slug
    from efface.formats import EXPORTERS

    screen = Screen(json)
    if format is None:
        raise BadInput(f"Choose a format with --format: {', '.join(EXPORTERS.names())}.")
    exporter = EXPORTERS.get(format)
    target = out or Path(f"{slug(eraser.stem)}-{format}{exporter.suffix}")

    from efface import export

    result = export(eraser, format, target, model=model, rank=rank, device=device, force=force)
    if result.existed:
        screen.say(f"{target} exists already and is this export; nothing was written.")
    screen.say(f"{target}: {exporter.summary}")
    rank_text = "" if result.rank is None else f", rank {result.rank}"
    screen.say(f"{result.parameters} parameters changed{rank_text}")
    if result.error:
        screen.say(f"Cutting to rank {result.rank} lost {result.error:.1%} of the change (relative Frobenius norm).")
    screen.answer(result.to_json())
