"""`efface fetch`: models and data sets from the hub, where it can be reached."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Force, Json, UnusedDevice, UnusedModel, UnusedSeed
from efface.errors import BadInput

KINDS = ("models", "i2p", "unlearncanvas")


def command(
    kind: Annotated[str, typer.Argument(metavar="|".join(KINDS), help="What to bring.")],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Its name on the hub; data sets have one of their own.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="PATH", help="Where a data set goes.")] = None,
    force: Force = False,
    model: UnusedModel = "emoji",
    device: UnusedDevice = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Bring a model (into the hub's cache) or a data set (as its protocol reads it) from the Hugging Face hub.

    Without the hub it says what to place where, and ends with 1.

    Example: efface fetch models CompVis/stable-diffusion-v1-4, then efface erase ... --model the same name
    """
    from efface.cli.output import Screen, check_target
    from efface.hub import CANVAS, I2P, I2P_FILE, UnreachableError, fetch_i2p, fetch_model, fetch_unlearncanvas

    screen = Screen(json)
    if kind not in KINDS:
        raise BadInput(f"Unknown '{kind}'; efface fetch brings {', '.join(KINDS)}.")
    if kind == "models" and not name:
        raise BadInput("Say which model, e.g. efface fetch models CompVis/stable-diffusion-v1-4.")
    if kind == "models" and out:
        raise BadInput("Models go into the hub's cache, where --model finds them by name; leave -o away.")
    try:
        if kind == "i2p":
            target = out or Path(I2P_FILE)
            check_target(target, force)
            use, found = f"--protocol i2p --prompts {target}", fetch_i2p(name or I2P, target, force)
        elif kind == "unlearncanvas":
            target = out or Path("unlearncanvas")
            with screen.progress() as progress:
                found = fetch_unlearncanvas(name or CANVAS, target, progress)
            use = f"--protocol unlearncanvas --data {target}"
        else:
            found, use = fetch_model(name or ""), f"--model {name}"
    except UnreachableError as error:
        print(f"efface: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from error
    screen.say(f"{found}; use it with {use}")
    screen.answer({"kind": kind, "path": str(found), "use": use})
