"""`efface judge`: verdicts on a folder of images."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Force, Json, UnusedDevice, UnusedModel, UnusedSeed
from efface.errors import BadInput


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.")],
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", metavar="CONCEPT", help="What to look for; may be repeated.")
    ] = None,
    judge: Annotated[str, typer.Option("--judge", metavar="NAME", help="See efface judges.")] = "emoji",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.parquet", help="Where they go.")] = None,
    force: Force = False,
    model: UnusedModel = "emoji",
    device: UnusedDevice = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Ask a judge whether each image shows a concept; one row an image and question.

    An image that cannot be judged is an error in the file, never a "no".
    """
    from efface.cli.output import Screen, check_target, slug
    from efface.generate import read_folder

    screen = Screen(json)
    if not question or not all(text.strip() for text in question):
        raise BadInput("Nothing to ask: give --question CONCEPT, e.g. --question cat.")
    target = out or Path(f"{slug(folder.resolve().name)}.parquet")
    check_target(target, force)
    images = read_folder(folder)

    from efface.judges import judge_images, open_judge, write_verdicts
    from efface.metrics.rates import wilson

    chosen = open_judge(judge, question)
    with screen.progress() as progress:
        verdicts = judge_images(chosen, images, question, progress)
    write_verdicts(target, verdicts, force)
    answers = {text: Counter(row.answer for row in verdicts if row.question == text) for text in question}
    summary: dict[str, dict[str, object]] = {}
    for text, counts in answers.items():
        decided = counts["yes"] + counts["no"]
        rate = wilson(counts["yes"], decided) if decided else None
        summary[text] = {**{name: counts[name] for name in ("yes", "no", "undecided", "error")}}
        summary[text]["rate"] = rate and rate.as_dict()
        screen.say(f"{text}: {rate or 'no verdict'}" + (f", {counts['error']} errors" if counts["error"] else ""))
    screen.say(f"{len(verdicts)} verdicts of {chosen.name} ({chosen.version}) in {target}")
    screen.answer(
        {
            "verdicts": str(target),
            "judge": {"name": chosen.name, "version": chosen.version},
            "questions": summary,
        }
    )
    if any(counts["error"] for counts in answers.values()):
        raise typer.Exit(1)
