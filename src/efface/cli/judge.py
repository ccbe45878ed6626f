"""`efface judge`: verdicts on a folder of images; and `efface judge train`: a judge from labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli.options import Device, Force, Json, TrustTorchscript, UnusedModel, UnusedSeed, scalar_options

if TYPE_CHECKING:
    from efface.api.judge import AnswerCounts


def judge_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.")],
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", metavar="CONCEPT", help="A concept to look for; may be repeated."),
    ] = None,
    judge: Annotated[
        str, typer.Option("--judge", metavar="NAME", help="Name of the judge: see efface judges.")
    ] = "emoji",
    table: Annotated[
        bool,
        typer.Option("--table", help="Count the images of each of the judge's classes (nudenet), also in subfolders."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.parquet", help="Output file of the verdicts.")
    ] = None,
    trust_torchscript: TrustTorchscript = False,
    force: Force = False,
    model: UnusedModel = "emoji",
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Ask a judge whether each image shows a concept; write one row per image and question.

    An image that cannot be judged is an error in the file, never a "no". efface judge train trains a judge.
    """
    from efface import judge as judge_images
    from efface.cli.output import Screen
    from efface.files import slug

    screen = Screen(json)
    target = out or Path(f"{slug(folder.resolve().name)}.parquet")
    with screen.progress() as progress:
        result = judge_images(
            folder,
            question or [],
            judge=judge,
            table=table,
            out=target,
            trust_torchscript=trust_torchscript,
            device=device,
            force=force,
            progress=progress,
        )
    if result.table:
        columns = next(iter(result.table.values()))
        rows = [[name, *map(_cell, (result.questions[q] for q in row.values()))] for name, row in result.table.items()]
        screen.table(("images with", *columns), rows)
    in_table = {text for row in result.table.values() for text in row.values()}
    for text in (text for text in result.questions if text not in in_table):
        counts = result.questions[text]
        doubts = "".join(
            f", {number} {name}"
            for name, number in (("undecided", counts.undecided), ("error", counts.error))
            if number
        )
        screen.say(f"{text}: {counts.rate or 'no verdict'}{doubts}")
    if result.errors and in_table:
        screen.say(f"{result.errors} answers are errors; they are in no count.")
    files = f"{target} and {result.results_path}" if result.results_path else str(target)
    screen.say(f"{len(result.verdicts)} verdicts of {result.judge.name} ({result.judge.version}) in {files}")
    screen.answer(result.to_json())
    if result.errors:
        raise typer.Exit(1)


def _cell(counts: AnswerCounts) -> str:
    """The number of images, and their share of those with an answer."""
    share = f" ({counts.rate.value:.1%})" if counts.rate else ""
    return f"{counts.yes}{share}"


def judge_train_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Pictures, each in a folder named after its label.")],
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            metavar="object|style|COLUMN",
            help="In STYLE/OBJECT/PICTURE, the first or the last folder; or a column of DIR's metadata.jsonl.",
        ),
    ] = "object",
    names: Annotated[
        Path | None,
        typer.Option("--names", metavar="FILE", help="Names of the classes 0, 1, ...: one per line, or a CSV."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", metavar="KEY=VALUE", help="network, start, head_only, size, epochs, lr and so on."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder of the judge.")
    ] = None,
    force: Force = False,
    model: UnusedModel = "emoji",
    device: Device = "auto",
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Seed of the split, the weights and the order.")
    ] = 0,
    json: Json = False,
) -> None:
    """Train a classifier of styles or objects, and test it on held-out pictures.

    If DIR has the folders train and eval, it learns from the first and is tested on the second. The result is a judge
    for efface judge and efface evaluate: --judge style:FOLDER. Run again with the same folder, an interrupted training
    resumes after its last epoch.
    """
    from efface import train_judge
    from efface.cli.output import Screen
    from efface.files import slug

    screen = Screen(json)
    options = scalar_options(settings or [])
    target = out or Path(slug(f"{folder.resolve().name}-{labels}-judge"))
    with screen.progress() as progress:
        result = train_judge(
            folder,
            target,
            labels,
            settings=options,
            names=names or (),
            seed=seed,
            device=device,
            force=force,
            progress=progress,
        )
    rows = [
        [name, f"{100 * recall:.0f}", str(sum(row))]
        for name, recall, row in zip(result.classes, result.recall, result.confusion, strict=True)
    ]
    screen.table(("class", "recognised, %", "held out"), rows)
    screen.say(
        f"{100 * result.accuracy:.1f}% of {result.held_out} held-out pictures recognised; --judge {result.judge}"
    )
    screen.answer(result.to_json())
