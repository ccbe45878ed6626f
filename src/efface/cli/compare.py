"""`efface compare`: distances and scores of two folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Device, Json, UnusedModel, UnusedSeed


def compare_command(
    first: Annotated[Path, typer.Argument(metavar="A", help="A folder of images.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The folder to compare it with.")],
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="fid, kid, cmmd, clip_score or lpips; may be repeated."),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option("--extractor", metavar="NAME", help="efficientnet, emoji-clip, clip:ID or inception:FILE."),
    ] = None,
    clip: Annotated[
        str | None, typer.Option("--clip", metavar="ID", help="The CLIP of the CLIP score: a folder or a hub id.")
    ] = None,
    lpips: Annotated[
        list[Path] | None,
        typer.Option("--lpips", metavar="FILE", help="Weights of AlexNet and of LPIPS's heads; may be repeated."),
    ] = None,
    model: UnusedModel = "emoji",
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Compare two folders of images: FID, KID, CMMD, CLIP score and LPIPS, each with its 95% interval.

    Example: efface compare before after
    """
    from efface import compare
    from efface.cli.output import Screen

    screen = Screen(json)
    with screen.progress() as progress:
        result = compare(
            first,
            second,
            metrics=metric or (),
            extractor=extractor,
            clip=clip,
            lpips=lpips or (),
            device=device,
            progress=progress,
        )
    screen.say(f"{result.images[0]} and {result.images[1]} images, {result.pairs} pairs of one prompt and seed")
    scores = {f"clip_score, {name}": number for name, number in result.clip_score.items()}
    for name, number in {**result.distances, **scores}.items():
        note = f" ({number.note})" if number.note else ""
        by = f", by {number.extractor}" if number.extractor else f", p={number.p:.2g}"
        screen.say(f"{name}: {number.value:.4g} [{number.low:.4g}, {number.high:.4g}]{by}{note}")
    for name, reason in result.missing.items():
        screen.say(f"{name}: not computed: {reason}")
    if result.errors:
        screen.say(f"{result.errors} images cannot be read and are left out")
    screen.answer(result.to_json())
    if result.errors:
        raise typer.Exit(1)
