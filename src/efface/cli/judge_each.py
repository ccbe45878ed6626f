"""`efface judge --prompts`: the images of a dataset, by several processes; and the rates in a file of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from efface.api.judge_each import ChallengeResult
    from efface.cli.output import Screen


def run_each(
    arguments: Sequence[str],
    screen: Screen,
    folder: Path,
    dataset: Path,
    workers: int | None,
    gpus: str | None,
    **rest: Any,
) -> None:
    """Judge the images of a dataset and print the rates of each model.

    Args:
        arguments: The command line, which the helper processes run too.
        screen: Where the result is printed.
        folder: The folder of the images.
        dataset: The CSV.
        workers: The number of workers.
        gpus: The GPUs.
        **rest: Other arguments of `efface.judge_each`.

    Raises:
        Exit: A folder or an image could not be judged.
    """
    from efface import judge_each
    from efface.crew import crew

    with screen.progress() as progress, crew(arguments, workers, gpus) as members:
        result = judge_each(folder, dataset, crew=members, progress=progress, **rest)
    if members.worker.rank == 0:
        for name in result.skipped:
            screen.say(f"skipped: {name} is no concept of {dataset}, or has no images")
        for name, error in result.failures.items():
            screen.say(f"failed: {name}: {error}")
        print_results(screen, result)
    if result.failures or result.errors:
        raise typer.Exit(1)


def print_results(screen: Screen, result: ChallengeResult) -> None:
    """Print the rates of each model, their mean over the models, and the number of answers."""
    from efface.cli.evaluate import percent_with_interval
    from efface.cli.output import NOT_CALIBRATED
    from efface.protocols.evaluation_results import METRICS

    models = result.models
    metrics = [name for name in (*METRICS, "err") if any(name in rates for rates in models.values())]
    rows = [[model, *(percent_with_interval(rates.get(name)) for name in metrics)] for model, rates in models.items()]
    if len(rows) > 1:
        values = [[rates[name].value for rates in models.values() if name in rates] for name in metrics]
        rows.append(["mean", *(f"{100 * sum(column) / len(column):.1f}" for column in values)])
    screen.table(("model, %", *metrics), rows)
    counts = {response: sum(row.response == response for row in result.rows) for response in ("undecided", "error")}
    doubts = "".join(f", {number} {response}" for response, number in counts.items() if number)
    by = f" of {result.judge.name} ({result.judge.version})" if result.judge else ""
    where = f" in {result.path}{', which exists already' if result.existed else ''}"
    where = f"; {result.path} is not written" if result.failures else where
    screen.say(f"{len(result.rows)} answers{by}{doubts}{where}")
    screen.say(NOT_CALIBRATED)
    screen.answer(result.to_json())
