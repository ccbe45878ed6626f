"""`efface import`: a checkpoint or a LoRA as an eraser."""

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Device, Force, Json, Model, UnusedSeed, device_of
from efface.errors import BadInput


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Edited weights or a LoRA; no code in it is run.")],
    concept: Annotated[
        list[str] | None, typer.Option("--concept", metavar="CONCEPT", help="What it erases; may be repeated.")
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="GUIDE", help="What it draws instead, if known.")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="object, style, memorised or unsafe.")] = "object",
    format: Annotated[
        str, typer.Option("--format", metavar="NAME", help="weights, lora or kohya; auto finds out.")
    ] = "auto",
    ema: Annotated[bool, typer.Option("--ema", help="Take a CompVis checkpoint's EMA weights.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where the eraser goes.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Make an eraser of weights that another tool edited, or of a LoRA. --model is the base that it was made from.

    Example: efface import erased.pt --concept "Van Gogh" --kind style --model sd-folder -o van-gogh.safetensors
    """
    from efface.cli.output import Screen, check_target, slug

    screen = Screen(json)
    if not concept:
        raise BadInput("Say what the file erases with --concept; a file of weights does not.")
    target = out or Path(f"{slug(file.stem)}-imported.safetensors")
    check_target(target, force)

    from efface import import_eraser, open_model

    opened = open_model(model, device_of(device))
    eraser = import_eraser(file, opened, concept, to or (), kind=kind, format=format, ema=ema)
    eraser.save(target, force=force)
    settings = eraser.provenance["settings"]
    screen.say(f"{target}: erases {', '.join(eraser.concepts)}")
    screen.say(f"{settings['format']}, {len(eraser.edits)} parameters changed, {eraser.nbytes / 1024:.1f} KB")
    screen.answer(
        {
            "eraser": str(target),
            "method": eraser.method,
            "concepts": list(eraser.concepts),
            "format": settings["format"],
            "sha256": settings["sha256"],
            "parameters": len(eraser.edits),
            "rank": eraser.rank,
            "bytes": eraser.nbytes,
        }
    )
