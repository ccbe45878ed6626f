"""`efface fetch`: models and data sets from the hub, where it can be reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Force, Json, UnusedDevice, UnusedModel, UnusedSeed


def fetch_command(
    kind: Annotated[str, typer.Argument(metavar="models|i2p|unlearncanvas", help="What to download.")],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Its name on the hub, or a model's URL; data sets have a default."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PATH", help="Output file or folder of a data set or URL.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="N", min=1, help="Fetch N prompts or pictures of a data set and not all."),
    ] = None,
    force: Force = False,
    model: UnusedModel = "emoji",
    device: UnusedDevice = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Download a model (to the hub's cache) or a data set (as its protocol reads it) from the Hugging Face hub.

    The file of a URL (.ckpt, .zip) is downloaded to the current folder. An interrupted download resumes when the
    command is run again, and an archive is unpacked into a folder of its name.

    Without the hub, the command prints which files to place where, and exits with 1.

    Example: efface fetch models CompVis/stable-diffusion-v1-4, then efface erase ... --model the same name
    """
    from efface import fetch
    from efface.cli.output import Screen

    screen = Screen(json)
    with screen.progress() as progress:
        result = fetch(kind, name, out=out, sample=sample, force=force, progress=progress)
    screen.say(f"{result.path}; use it with {result.use}")
    screen.answer(result.to_json())
