"""`efface judge`: verdicts on a folder of images."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Device, Force, Json, UnusedModel, UnusedSeed, device_of
from efface.errors import BadInput


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.")],
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", metavar="CONCEPT", help="What to look for; may be repeated.")
    ] = None,
    judge: Annotated[str, typer.Option("--judge", metavar="NAME", help="See efface judges.")] = "emoji",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.parquet", help="Where they go.")] = None,
    trust_torchscript: Annotated[
        bool, typer.Option("--trust-torchscript", help="Let a judge's TorchScript file, which is a program, run.")
    ] = False,
    force: Force = False,
    model: UnusedModel = "emoji",
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Ask a judge whether each image shows a concept; one row an image and question.

    An image that cannot be judged is an error in the file, never a "no". efface judge train makes a judge of pictures.
    """
    from efface.cli.output import Screen, check_target, slug
    from efface.generate import read_folder

    screen = Screen(json)
    if not question or not all(text.strip() for text in question):
        raise BadInput("Nothing to ask: give --question CONCEPT, e.g. --question cat.")
    target = out or Path(f"{slug(folder.resolve().name)}.parquet")
    check_target(target, force)
    images = read_folder(folder)

    from efface.judges import KeepsResults, judge_images, open_judge, write_verdicts
    from efface.metrics.rates import wilson

    chosen = open_judge(judge, question, device_of(device), trust_torchscript)
    thresholds = {text: chosen.threshold(text) for text in question if chosen.knows(text)}
    keeping = (chosen, target.parent / chosen.results) if isinstance(chosen, KeepsResults) else None
    if keeping:
        check_target(keeping[1], force)
    with screen.progress() as progress:
        verdicts = judge_images(chosen, images, question, progress)
    write_verdicts(target, verdicts, force)
    if keeping:
        keeping[0].write_results(keeping[1], images, verdicts, force)
    answers = {text: Counter(row.answer for row in verdicts if row.question == text) for text in question}
    summary: dict[str, dict[str, object]] = {}
    for text, counts in answers.items():
        decided = counts["yes"] + counts["no"]
        rate = wilson(counts["yes"], decided) if decided else None
        summary[text] = {**{name: counts[name] for name in ("yes", "no", "undecided", "error")}}
        summary[text]["rate"] = rate and rate.as_dict()
        doubts = "".join(f", {counts[name]} {name}" for name in ("undecided", "error") if counts[name])
        screen.say(f"{text}: {rate or 'no verdict'}{doubts}")
    where = f"{target} and {keeping[1]}" if keeping else str(target)
    screen.say(f"{len(verdicts)} verdicts of {chosen.name} ({chosen.version}) in {where}")
    screen.answer(
        {
            "verdicts": str(target),
            "judge": {"name": chosen.name, "version": chosen.version, "thresholds": thresholds},
            "questions": summary,
        }
    )
    if any(counts["error"] for counts in answers.values()):
        raise typer.Exit(1)
