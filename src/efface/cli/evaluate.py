"""`efface evaluate`: how well erasers forget, and what they leave alone."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import BatchSize, Device, Force, Json, Model, Sampler, Seed, Steps, device_of
from efface.errors import BadInput


def command(
    erasers: Annotated[list[Path] | None, typer.Argument(metavar="ERASER...", help="Files of erasers.")] = None,
    protocol: Annotated[str, typer.Option("--protocol", "-p", metavar="NAME", help="See efface protocols.")] = "err",
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="NAME", help="See efface judges (default: the embedded model's own)."),
    ] = None,
    n: Annotated[int, typer.Option("-n", metavar="N", min=2, help="Images a concept.")] = 100,
    steps: Steps = None,
    sampler: Sampler = None,
    batch_size: BatchSize = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where the report goes.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Draw with and without each eraser, judge, and write a report. Several erasers stand side by side.

    Run again with the same folder, an interrupted evaluation goes on where it was.
    """
    from efface.cli.evaluation import evaluated
    from efface.cli.output import Screen, claim, slug
    from efface.protocols import BASE, PROTOCOLS
    from efface.report.document import PAGE

    screen = Screen(json)
    if not erasers:
        raise BadInput("Nothing to evaluate: give the file of an eraser; efface erase makes one.")
    names = [path.stem for path in erasers]
    for name in names:
        if names.count(name) > 1 or name == BASE:
            raise BadInput(f"The eraser name '{name}' is taken; rename one file: reports go by the file's name.")
    if judge is None and model != "emoji":
        raise BadInput(f"Choose a --judge for {model}, e.g. --judge clip:openai/clip-vit-base-patch32.")
    PROTOCOLS.get(protocol)

    from efface import Eraser, open_model
    from efface.base_check import check_base
    from efface.generate import Sampling

    loaded = {name: Eraser.load(path) for name, path in zip(names, erasers, strict=True)}
    opened = open_model(model, device_of(device))
    wanted = {"steps": steps, "sampler": sampler, "batch_size": batch_size}
    sampling = replace(Sampling.default(opened), **{key: value for key, value in wanted.items() if value is not None})
    folder = out or Path(slug(f"{protocol}-{'-'.join(names)}"))
    work = {
        "protocol": protocol,
        "erasers": {name: eraser.hash for name, eraser in loaded.items()},
        "model": model,
        "judge": judge,
        "n": n,
        "seed": seed,
        "sampler": sampling.sampler,
        "steps": sampling.steps,
    }
    for eraser in loaded.values():
        check_base(eraser, opened, force=False)
    with claim(folder, "evaluate", work, PAGE, force):
        evaluation = evaluated(
            screen,
            opened,
            loaded,
            protocol=protocol,
            judge=judge or "emoji",
            n=n,
            seed=seed,
            out=folder,
            sampling=sampling,
        )
    screen.say(f"Report: {folder / PAGE}")
    screen.answer(evaluation.as_dict() | {"report": str(folder / PAGE)})
    if evaluation.errors:
        raise typer.Exit(1)
