"""`efface judge train`: a judge from folders of pictures."""

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Device, Force, Json, UnusedModel, device_of, scalar_options


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Pictures, each in a folder named after its label.")],
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            metavar="object|style|COLUMN",
            help="In STYLE/OBJECT/PICTURE, the first or the last folder; or a column of DIR's metadata.jsonl.",
        ),
    ] = "object",
    settings: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", metavar="KEY=VALUE", help="network, start, head_only, size, epochs, lr and so on."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where the judge goes.")] = None,
    force: Force = False,
    model: UnusedModel = "emoji",
    device: Device = "auto",
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Of the split, the weights and the order.")
    ] = 0,
    json: Json = False,
) -> None:
    """Train a classifier of styles or objects, and test it on pictures held out.

    What it makes is a judge for efface judge and efface evaluate: --judge style:FOLDER. Run again with the same folder,
    an interrupted training goes on after its last epoch.
    """
    from efface.cli.output import Screen, claim, slug
    from efface.judges.training.network import TrainSettings
    from efface.judges.training.pictures import find_labelled_pictures
    from efface.judges.training.run import RESULT, train_judge

    screen = Screen(json)
    chosen = TrainSettings.model_validate(scalar_options(settings or []))
    where = device_of(device)
    find_labelled_pictures(folder, labels)
    target = out or Path(slug(f"{folder.resolve().name}-{labels}-judge"))
    work = {"pictures": str(folder.resolve()), "labels": labels, "seed": seed, "settings": chosen.model_dump()}
    with claim(target, "judge train", work, RESULT, force), screen.progress() as progress:
        result = train_judge(folder, target, labels, chosen, seed, where, progress)
    rows = [
        [name, f"{100 * recall:.0f}", str(sum(row))]
        for name, recall, row in zip(result["classes"], result["recall"], result["confusion"], strict=True)
    ]
    screen.table(("class", "recognised, %", "held out"), rows)
    screen.say(f"{100 * result['accuracy']:.1f}% of {result['held_out']} pictures held out; --judge style:{target}")
    told = ("labels", "classes", "accuracy", "recall", "learned_from", "held_out", "confusion")
    screen.answer({"judge": f"style:{target}", **{key: result[key] for key in told}})
