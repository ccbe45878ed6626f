"""`efface generate --each-eraser`: the prompts of a dataset with several erasers, by several processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from efface.cli.output import Screen


def run_each(
    arguments: Sequence[str],
    screen: Screen,
    dataset: Path,
    erasers: Path,
    out: Path,
    workers: int | None,
    gpus: str | None,
    **rest: Any,
) -> None:
    """Generate the images and print the result.

    Args:
        arguments: The command line, which the helper processes run too.
        screen: Where the result is printed.
        dataset: The CSV.
        erasers: The folder of the erasers.
        out: The folder of the images.
        workers: The number of workers.
        gpus: The GPUs.
        **rest: Other arguments of `efface.generate_each`.

    Raises:
        Exit: A folder of images could not be completed.
    """
    from efface import generate_each
    from efface.crew import crew
    from efface.workers import LOGS

    with screen.progress() as progress, crew(arguments, workers, gpus) as members:
        result = generate_each(dataset, erasers, out, crew=members, progress=progress, **rest)
    if members.worker.rank == 0:
        count = f"{result.images} images in {len(result.folders)} folders, {len(result.new)} of them new"
        screen.say(f"{out}: {count}, in {result.seconds:.1f} s; logs in {out / LOGS}")
        for name, error in result.failures.items():
            screen.say(f"failed: {name}: {error}")
        screen.answer(result.to_json())
    if result.failures:
        raise typer.Exit(1)
