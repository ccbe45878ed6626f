"""`efface generate`: prompts to a folder of images, with or without an eraser."""

import time
from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import BatchSize, Device, Force, Json, Model, Sampler, Seed, Steps, device_of, with_given
from efface.errors import BadInput


def command(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A CSV with a prompt column, or one prompt a line.")
    ] = None,
    eraser: Annotated[
        list[Path] | None,
        typer.Option("--eraser", "-e", metavar="FILE", help="An eraser to attach; several are composed."),
    ] = None,
    strength: Annotated[float, typer.Option("--strength", metavar="X", help="How far to erase: 0 not, 1 fully.")] = 1.0,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Images a prompt.")] = 1,
    steps: Steps = None,
    guidance: Annotated[float | None, typer.Option("--guidance", metavar="G", help="Guidance scale.")] = None,
    sampler: Sampler = None,
    batch_size: BatchSize = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where the images go.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Draw prompts into a folder with metadata.jsonl. Image i of a prompt has seed + i, whatever the batch size.

    What the folder already holds is not drawn again, so an interrupted run goes on where it was.
    """
    from efface.cli.output import Screen, slug
    from efface.generation import Sampling, jobs_for, read_prompts, repeated

    screen = Screen(json)
    if bool(prompts) == bool(prompts_file):
        raise BadInput("Give prompts, or a file of them with --prompts; one of the two.")
    jobs = repeated(read_prompts(prompts_file, seed), n) if prompts_file else jobs_for(prompts or [], n, seed)
    work = prompts_file.stem if prompts_file else (prompts or [""])[0]
    folder = out or Path("-".join(slug(name) for name in (work, *(path.stem for path in eraser or []))))

    from efface import Eraser, compose, open_model
    from efface.eraser.base import check_base
    from efface.generation import generate

    attached = compose(*(Eraser.load(path) for path in eraser), force=force) if eraser else None
    opened = open_model(model, device_of(device))
    if attached:
        check_base(attached, opened, force)
    usual = Sampling.default(opened)
    sampling = with_given(usual, steps=steps, guidance=guidance, sampler=sampler, batch_size=batch_size)
    started = time.perf_counter()
    with screen.progress() as progress:
        images = generate(
            opened, jobs, sampling, out=folder, eraser=attached, strength=strength, force=force, progress=progress
        )
    seconds = time.perf_counter() - started
    failed = [image for image in images if image.path is None]
    screen.say(f"{folder}: {len(images) - len(failed)} images in {seconds:.1f} s")
    if failed:
        screen.say(f"{len(failed)} images could not be made: {failed[0].error}")
    screen.answer(
        {
            "folder": str(folder),
            "images": [image.path.name for image in images if image.path is not None],
            "errors": len(failed),
            "seconds": seconds,
        }
    )
    if failed:
        raise typer.Exit(1)
