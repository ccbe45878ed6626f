"""`efface import`: a checkpoint or a LoRA as an eraser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Device, Force, Json, Model, UnusedSeed
from efface.cli.runtime import with_runtime


@with_runtime(generates=False)
def import_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Edited weights, a LoRA or a folder of layers; no code in it is run.")
    ],
    concept: Annotated[
        list[str] | None,
        typer.Option("--concept", metavar="CONCEPT", help="A concept that it erases; may be repeated."),
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="GUIDE", help="What it generates instead, if known.")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="object, style, memorised or unsafe.")] = "object",
    format: Annotated[
        str, typer.Option("--format", metavar="NAME", help="weights, lora, kohya or layers; auto detects it.")
    ] = "auto",
    ema: Annotated[bool, typer.Option("--ema", help="Read a CompVis checkpoint's EMA weights.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Output file.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Make an eraser from weights that another tool edited, or from a LoRA. --model is the base model.

    Example: efface import erased.pt --concept "Van Gogh" --kind style --model sd-folder -o van-gogh.safetensors
    """
    from efface.cli.finished import eraser_at, save_or_compare
    from efface.cli.output import Screen
    from efface.files import check_suffix, slug

    screen = Screen(json)
    target = out or Path(f"{slug(file.stem)}-imported.safetensors")
    check_suffix(target, ".safetensors")
    there = eraser_at(target, force)

    from efface import import_eraser
    from efface.api.result import eraser_json

    eraser = import_eraser(file, model, concept or (), to or (), kind=kind, format=format, ema=ema, device=device)
    save_or_compare(screen, eraser, target, force, there)
    settings = eraser.provenance["settings"]
    screen.say(f"{target}: erases {', '.join(eraser.concepts)}")
    screen.say(f"{settings['format']}, {len(eraser.edits)} parameters changed, {eraser.nbytes / 1024:.1f} KB")
    content = eraser_json(eraser, target)
    screen.answer(
        {
            "eraser": content["eraser"],
            "method": content["method"],
            "concepts": content["concepts"],
            "format": settings["format"],
            "sha256": settings["sha256"],
            "parameters": len(eraser.edits),
            "rank": content["rank"],
            "bytes": content["bytes"],
        }
    )
