"""`efface judge`: verdicts on a folder of images."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli.options import Device, Force, Json, TrustTorchscript, UnusedModel, UnusedSeed, device_of
from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.generation import Image
    from efface.judges import Verdict
    from efface.metrics.base import Measured


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.")],
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", metavar="CONCEPT", help="What to look for; may be repeated.")
    ] = None,
    judge: Annotated[str, typer.Option("--judge", metavar="NAME", help="See efface judges.")] = "emoji",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.parquet", help="Where they go.")] = None,
    trust_torchscript: TrustTorchscript = False,
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
    from efface.generation import read_folder

    screen = Screen(json)
    if not question or not all(text.strip() for text in question):
        raise BadInput("Nothing to ask: give --question CONCEPT, e.g. --question cat.")
    question = list(dict.fromkeys(question))
    target = out or Path(f"{slug(folder.resolve().name)}.parquet")
    check_target(target, force)
    images = read_folder(folder)

    from efface.judges import WritesResults, judge_images, open_judge, write_verdicts

    chosen = open_judge(judge, question, device_of(device), trust_torchscript)
    thresholds = {text: chosen.threshold(text) for text in question if chosen.knows(text)}
    keeping = (chosen, target.parent / chosen.results) if isinstance(chosen, WritesResults) else None
    if keeping:
        check_target(keeping[1], force)
    with screen.progress() as progress:
        verdicts = judge_images(chosen, images, question, progress)
    write_verdicts(target, verdicts, force)
    if keeping:
        keeping[0].write_results(keeping[1], images, verdicts, force)
    rows = {text: [row for row in verdicts if row.question == text] for text in question}
    answers = {text: Counter(row.answer for row in about) for text, about in rows.items()}
    summary: dict[str, dict[str, object]] = {}
    for text, counts in answers.items():
        rate = _rate(images, rows[text])
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


def _rate(images: "Sequence[Image]", verdicts: "Sequence[Verdict]") -> "Measured | None":
    """How often the answer is yes, by prompt: images of one prompt are alike, those of no known prompt independent."""
    from efface.metrics.bootstrap import by_prompt
    from efface.metrics.rates import rate_with_interval

    decided = [
        (image.row.get("prompt"), image.path, verdict.answer == "yes")
        for image, verdict in zip(images, verdicts, strict=True)
        if verdict.answer in ("yes", "no")
    ]
    if not decided:
        return None
    prompts = [str(path if prompt is None else prompt) for prompt, path, _ in decided]
    is_foreign = all(prompt is None for prompt, _, _ in decided)
    return rate_with_interval(by_prompt([float(yes) for _, _, yes in decided], None if is_foreign else prompts))
