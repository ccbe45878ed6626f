"""`efface demo`: the whole of efface in one go, on the embedded model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from efface.cli.options import Device, Force, Json, Model, Seed

#: What is forgotten: one object and one style, by the method's published defaults.
ERASED: dict[str, dict[str, Any]] = {
    "cat": {"to": "dog", "kind": "object"},
    "pixel art": {"to": "flat", "kind": "style"},
}
TITLE = "A text-to-image model before and after it forgot"
GRID = "grid.png"
COLUMNS = 10


def demo_command(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where everything goes.")] = Path(
        "efface-demo"
    ),
    n: Annotated[int, typer.Option("-n", metavar="N", min=2, help="Images a concept.")] = 40,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Erase an object and a style from the embedded model, draw before and after, judge, and write a report."""
    from efface.api.arguments import resolve_device
    from efface.cli.evaluation import Wish, evaluated
    from efface.cli.output import Screen
    from efface.errors import BadInput
    from efface.files import slug
    from efface.report.document import PAGE
    from efface.work_folder import claim

    screen = Screen(json)
    if model != "emoji":
        raise BadInput("The demo shows the embedded model; for another, use efface erase and efface evaluate.")
    started = time.perf_counter()

    from efface import erase, open_model

    with claim(out, "demo", {"n": n, "seed": seed}, GRID, force):  # which is written last
        opened = open_model(model, resolve_device(device))
        erasers = {slug(name): erase(opened, name, **how) for name, how in ERASED.items()}
        for name, eraser in erasers.items():
            eraser.save(out / f"{name}.safetensors", force=True)
            screen.say(f"{eraser.concepts[0]}: erased by {eraser.method}, rank {eraser.rank}, {eraser.nbytes} bytes")
        evaluation = evaluated(screen, opened, erasers, Wish("err", "emoji", n, seed), out, TITLE)
        _grid(evaluation, out / GRID)
    seconds = time.perf_counter() - started
    screen.say()
    screen.say(f"Done in {seconds:.0f} s. Look at {out / PAGE}, or at {out / GRID}.")
    screen.say(f"Try it: efface generate 'a cat in 3d style' -n 8 --eraser {out / 'cat.safetensors'}")
    screen.answer(evaluation.as_dict() | {"report": str(out / PAGE), "grid": str(out / GRID), "seconds": seconds})
    if evaluation.errors:
        raise typer.Exit(1)


def _grid(evaluation: Any, path: Path) -> None:
    """Before and after of each erased concept, and of what should stay."""
    from efface.files import atomic
    from efface.protocols import BASE
    from efface.report import grid
    from efface.report.pictures import pairs, spread
    from efface.report.verdict import erased_by

    base, rows = evaluation.results[BASE], []
    for name, result in evaluation.results.items():
        if name == BASE:
            continue
        subject = ", ".join(erased_by(result))
        rows.append((f"{subject}: erased", spread(pairs(base, result, "forget"), COLUMNS)))
        rows.append((f"the rest, with {subject} erased", spread(pairs(base, result, "retain"), COLUMNS)))
    with atomic(path) as temporary:
        grid(rows, temporary)
