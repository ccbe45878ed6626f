"""`efface judge`: verdicts on a folder of images; and `efface judge train`: a judge from labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli.options import (
    ConceptColumn,
    Device,
    Force,
    Gpus,
    Json,
    TrustTorchscript,
    UnusedModel,
    UnusedSeed,
    Workers,
    scalar_options,
)
from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.api.judge import AnswerCounts


def judge_command(
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A folder of images; or a file evaluation_results.csv, to print its rates."),
    ],
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", metavar="CONCEPT", help="A concept to look for; may be repeated."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE.csv", help="Ask about the concept of each EDITED/PROMPTED folder in DIR."
        ),
    ] = None,
    concept_column: ConceptColumn = None,
    workers: Workers = None,
    gpus: Gpus = None,
    judge: Annotated[
        str, typer.Option("--judge", metavar="NAME", help="Name of the judge: see efface judges.")
    ] = "emoji",
    table: Annotated[
        bool,
        typer.Option("--table", help="Count the images of each of the judge's classes (nudenet), also in subfolders."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE.parquet", help="Output file of the verdicts; of the results with --prompts."
        ),
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
    from efface import read_challenge_results
    from efface.cli.judge_each import print_results, run_each
    from efface.cli.output import NOT_CALIBRATED, Screen
    from efface.crew import refuse_several
    from efface.files import slug

    screen = Screen(json)
    if prompts is None:
        refuse_several(workers, gpus, "--prompts FILE.csv")
    elif question or table or folder.is_file():
        raise BadInput("--prompts needs a folder of images, and no --question or --table: its file names the concepts.")
    if folder.is_file():
        if question or table:
            raise BadInput(f"{folder} is a file of results, which has the answers; leave out --question and --table.")
        print_results(screen, read_challenge_results(folder))
        return
    if prompts is not None:
        run_each(
            context.obj,
            screen,
            folder,
            prompts,
            workers,
            gpus,
            concept_column=concept_column,
            judge=judge,
            out=out,
            trust_torchscript=trust_torchscript,
            device=device,
            force=force,
        )
        return
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
            for name, number in (
                ("undecided", counts.undecided),
                ("error", counts.error),
                ("broken (one colour)", counts.broken),
            )
            if number
        )
        screen.say(f"{text}: {counts.rate or 'no verdict'}{doubts}")
    screen.say(NOT_CALIBRATED)
    if result.runs > 1:
        screen.say(f"{folder} has images of {result.runs} runs, which are judged as one set.")
    if result.skipped:
        named = ", ".join(result.skipped[:5]) + (", ..." if len(result.skipped) > 5 else "")
        screen.say(f"{len(result.skipped)} files are no images and are left out: {named}")
    if result.errors and in_table:
        screen.say(f"{result.errors} answers are errors; they are in no count.")
    where = f"{target}, which exists already" if result.existed else str(target)
    screen.say(f"{len(result.verdicts)} verdicts of {result.judge.name} ({result.judge.version}) in {where}")
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
    from efface.api.train_judge import stored_training
    from efface.cli.finished import complete_work
    from efface.cli.output import Screen
    from efface.files import slug

    screen = Screen(json)
    options = scalar_options(settings or [])
    target = out or Path(slug(f"{folder.resolve().name}-{labels}-judge"))
    with complete_work(screen, stored_training), screen.progress() as progress:
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
