"""`efface demo`: erase, generate, judge and report in one command, on the built-in model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efface.cli.options import Device, Force, Json, Model, Seed
from efface.cli.runtime import with_runtime

if TYPE_CHECKING:
    from efface.protocols import Evaluation

#: What is erased: one object and one style, by the method's published defaults.
ERASED: dict[str, dict[str, Any]] = {
    "cat": {"to": "dog", "kind": "object"},
    "pixel art": {"to": "flat", "kind": "style"},
}
TITLE = "A text-to-image model before and after it forgot"
GRID = "grid.png"
COLUMNS = 10


@with_runtime(generates=True)
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
    """Erase an object and a style from an embedded model, generate before and after, judge, and write a report."""
    from efface.api.arguments import model_from
    from efface.cli.evaluate import print_evaluation
    from efface.cli.finished import complete_work
    from efface.cli.output import Screen
    from efface.errors import BadInput
    from efface.files import slug
    from efface.judges import open_judge
    from efface.models.open import BUILT_IN
    from efface.protocols import PROTOCOLS
    from efface.protocols.run import run_protocol
    from efface.report import write_report
    from efface.report.document import stored_evaluation
    from efface.work_folder import claim

    screen = Screen(json)
    if model not in BUILT_IN:
        raise BadInput(f"The demo shows {' or '.join(BUILT_IN)}; for another, use efface erase and efface evaluate.")
    started = time.perf_counter()

    from efface import erase

    def stored(folder: Path) -> dict[str, Any]:
        seconds = time.perf_counter() - started
        return stored_evaluation(folder) | {"grid": str(folder / GRID), "seconds": seconds}

    work = {"model": model, "n": n, "seed": seed}
    with complete_work(screen, stored), claim(out, "demo", work, GRID, force):  # the grid is written last
        opened = model_from(model, device)
        erasers = {slug(name): erase(opened, name, **how) for name, how in ERASED.items()}
        for name, eraser in erasers.items():
            eraser.save(out / f"{name}.safetensors", force=True)
            screen.say(f"{eraser.concepts[0]}: erased by {eraser.method}, rank {eraser.rank}, {eraser.nbytes} bytes")
        judge = open_judge(str(opened.default_judge), device=str(opened.device))
        with screen.progress() as progress:
            evaluation = run_protocol(
                PROTOCOLS.get("err"), opened, erasers, judge, out=out, n=n, seed=seed, progress=progress
            )
        report = write_report(evaluation, out, TITLE)
        print_evaluation(screen, evaluation)
        _write_grid(evaluation, out / GRID)
    seconds = time.perf_counter() - started
    screen.say()
    screen.say(f"Done in {seconds:.0f} s. Look at {report}, or at {out / GRID}.")
    of_model = "" if model == "emoji" else f" --model {model}"
    screen.say(f"Try it: efface generate 'a cat in 3d style' -n 8 --eraser {out / 'cat.safetensors'}{of_model}")
    screen.answer(evaluation.as_dict() | {"report": str(report), "grid": str(out / GRID), "seconds": seconds})
    if evaluation.errors:
        raise typer.Exit(1)


def _write_grid(evaluation: Evaluation, path: Path) -> None:
    """Before and after of each erased concept, and of what should stay."""
    from efface.files import atomic
    from efface.protocols import BASE
    from efface.report import write_grid
    from efface.report.headline import erased_by
    from efface.report.pictures import before_and_after, pairs_of, spread
    from efface.report.words import erasers_of

    base, blocks = evaluation.erasers[BASE], []
    for name, result in erasers_of(evaluation).items():
        subject = ", ".join(erased_by(evaluation, name))
        for title, metric in ((f"{subject}: erased", "forget"), (f"the rest, with {subject} erased", "retain")):
            if pairs := spread(pairs_of(base, result, metric), COLUMNS):
                blocks.append(before_and_after(title, pairs))
    with atomic(path) as temporary:
        write_grid(blocks, temporary)
