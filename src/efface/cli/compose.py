"""`efface compose`: several erasers as one, or one with some of its concepts given back."""

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Device, Force, Json, UnusedSeed, device_of
from efface.errors import BadInput


def command(
    erasers: Annotated[list[Path] | None, typer.Argument(metavar="ERASER...", help="Files of erasers.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="CONCEPT", help="A concept to give back; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where the eraser goes.")] = None,
    force: Force = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="The erasers' model, where --without needs it.")
    ] = None,
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Make several erasers one, without a model, or give single concepts back.

    Erasers of one method and settings are solved again together; changes of weights are summed; others are applied one
    after the other in the order given. With --force, also erasers that were made for different models. Giving back
    what speed, oce, negative or sld erased takes the model they were made for (--model).

    Example: efface compose cat.safetensors dog.safetensors --without cat -o dog-only.safetensors
    """
    from efface.cli.output import Screen, check_target, slug

    screen = Screen(json)
    if not erasers:
        raise BadInput("Nothing to compose: give the files of erasers; efface erase makes them.")
    if len(erasers) == 1 and not without:
        raise BadInput("One eraser is composed already; give another, or a concept to give back with --without.")
    target = out or Path(f"{slug('-'.join(path.stem for path in erasers))}-composed.safetensors")
    check_target(target, force)

    from efface import Eraser, compose, open_model

    composed = compose(*(Eraser.load(path) for path in erasers), force=force)
    if without:
        opened = None if model is None else open_model(model, device_of(device))
        composed = composed.without(*without, model=opened)
    composed.save(target, force=force)
    parts = [{"method": part.method, "concepts": list(part.concepts)} for part in composed.parts or (composed,)]
    concepts = composed.request.concepts
    for does, debiased in (("erases", False), ("debiases", True)):
        names = [concept.name for concept in concepts if bool(concept.attributes) is debiased]
        if names:
            screen.say(f"{target}: {does} {', '.join(names)}")
    screen.say(f"{composed.kind_of_edit} edit of rank {composed.rank}, {composed.nbytes / 1024:.1f} KB")
    screen.answer(
        {
            "eraser": str(target),
            "method": composed.method,
            "concepts": list(composed.concepts),
            "kind_of_edit": composed.kind_of_edit,
            "rank": composed.rank,
            "bytes": composed.nbytes,
            "parts": parts,
        }
    )
