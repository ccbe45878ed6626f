"""`efface compose`: several erasers as one, or one with some of its concepts restored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Device, Force, Json, UnusedSeed
from efface.cli.runtime import with_runtime
from efface.errors import BadInput


@with_runtime(generates=False)
def compose_command(
    erasers: Annotated[list[Path] | None, typer.Argument(metavar="ERASER...", help="Files of erasers.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="CONCEPT", help="A concept to restore; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Output file.")] = None,
    force: Force = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="The erasers' model, if --without needs it.")
    ] = None,
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Compose several erasers into one, without a model, or restore single concepts.

    Erasers of one method and settings are solved again together; weight changes are summed; other erasers are applied
    one after the other in the given order. With --force, erasers of different models are composed too. Restoring
    concepts that speed, oce, negative or sld erased needs the erasers' model (--model).

    Example: efface compose cat.safetensors dog.safetensors --without cat -o dog-only.safetensors
    """
    from efface.cli.finished import eraser_at, save_or_compare
    from efface.cli.output import Screen
    from efface.files import check_suffix, slug

    screen = Screen(json)
    if not erasers:
        raise BadInput("Nothing to compose: give the files of erasers; efface erase makes them.")
    if len(erasers) == 1 and not without:
        raise BadInput("A single eraser needs no composing; give another, or a concept to restore with --without.")
    target = out or Path(f"{slug('-'.join(path.stem for path in erasers))}-composed.safetensors")
    check_suffix(target, ".safetensors")
    there = eraser_at(target, force)

    from efface import compose
    from efface.api.result import eraser_json

    eraser = compose(*erasers, without=without or (), model=model, device=device, force=force)
    save_or_compare(screen, eraser, target, force, there)
    for verb, debiased in (("erases", False), ("debiases", True)):
        names = [concept.name for concept in eraser.request.concepts if bool(concept.attributes) is debiased]
        if names:
            screen.say(f"{target}: {verb} {', '.join(names)}")
    screen.say(f"{eraser.kind_of_edit} edit of rank {eraser.rank}, {eraser.nbytes / 1024:.1f} KB")
    parts = [{"method": part.method, "concepts": list(part.concepts)} for part in eraser.parts or (eraser,)]
    screen.answer({**eraser_json(eraser, target), "parts": parts})
