"""`efface erase --each`: one eraser per concept of a dataset, by several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.cli.output import Screen
    from efface.settings import Scalar


def refuse(
    concepts: Sequence[str] | None,
    config: Path | None,
    goal: str | None,
    judge: str | None,
    preserve_file: Path | None,
    certify: bool,
    after: Sequence[Path] | None,
) -> None:
    """Refuse arguments of `efface erase` that `--each` does not use.

    Args:
        concepts: The concepts of the command line.
        config: The file of `--config`.
        goal: The value of `--goal`.
        judge: The value of `--judge`.
        preserve_file: The file of `--preserve-file`.
        certify: Whether `--certify` was given.
        after: The files of `--after`.

    Raises:
        BadInput: One of them was given.
    """
    given = {
        "concepts": concepts,
        "--config": config,
        "--goal": goal if goal != "erase" else None,
        "--judge": judge,
        "--preserve-file": preserve_file,
        "--certify": certify,
        "--after": after,
    }
    names = [name for name, value in given.items() if value]
    if names:
        raise BadInput(f"--each takes the concepts from its file, and no {names[0]}; leave that out.")


def run_each(
    arguments: Sequence[str],
    screen: Screen,
    dataset: Path,
    out: Path | None,
    to: Sequence[str],
    workers: int | None,
    gpus: str | None,
    *,
    options: Mapping[str, Scalar],
    **rest: Any,
) -> None:
    """Make the erasers and print the result.

    Args:
        arguments: The command line, which the helper processes run too.
        screen: Where the result is printed.
        dataset: The CSV.
        out: The folder of the erasers.
        to: The guide of all concepts: none or one.
        workers: The number of workers.
        gpus: The GPUs.
        options: The method's settings.
        **rest: Other arguments of `efface.erase_each`.

    Raises:
        BadInput: There is no output folder, or there are several guides.
        Exit: An eraser could not be made.
    """
    if out is None:
        raise BadInput("--each makes several erasers; give their folder with -o DIR.")
    if len(to) > 1:
        raise BadInput(f"--each takes one --to for all concepts, not {len(to)}; write guides in the column 'guide'.")

    from efface import erase_each
    from efface.crew import crew
    from efface.workers import LOGS

    with screen.progress() as progress, crew(arguments, workers, gpus) as members:
        result = erase_each(
            dataset, out, next(iter(to), None), crew=members, progress=progress, settings=options, **rest
        )
    if members.worker.rank == 0:
        screen.say(f"{out}: {len(result.erasers)} erasers, {len(result.new)} of them new; logs in {out / LOGS}")
        for name, error in result.failures.items():
            screen.say(f"failed: {name}: {error}")
        screen.answer(result.to_json())
    if result.failures:
        raise typer.Exit(1)
