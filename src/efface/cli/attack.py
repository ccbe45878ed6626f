"""`efface attack`: how often an attack brings a concept back, prompt by prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import (
    BatchSize,
    ConceptColumn,
    Device,
    Erasers,
    Force,
    Json,
    Judge,
    Model,
    Sampler,
    Seed,
    Steps,
    TrustTorchscript,
    scalar_options,
)
from efface.cli.runtime import with_runtime
from efface.errors import BadInput


@with_runtime(generates=True)
def attack_command(
    erasers: Erasers = None,
    attack: Annotated[str, typer.Option("--attack", metavar="NAME", help="See efface attacks.")] = "unlearndiff",
    concept: Annotated[
        str | None, typer.Option("--concept", metavar="C", help="What shall come back (default: what was erased).")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="A setting of the attack.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="What to start from: a CSV, or one prompt a line.")
    ] = None,
    concept_column: ConceptColumn = None,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Prompts, at most.")] = 20,
    judge: Judge = None,
    trust_torchscript: TrustTorchscript = False,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Store the images of an unsafe theme too.")
    ] = False,
    steps: Steps = None,
    sampler: Sampler = None,
    batch_size: BatchSize = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where it all goes.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Attack each eraser: the share of prompts for which the concept comes back. Each eraser is attacked alone.

    Run again with the same folder, an interrupted attack resumes. The texts that bring the
    concept back are in adversarial.csv, which efface evaluate --prompts reads.

    Example: efface attack cat.safetensors --attack unlearndiff --concept cat -n 8
    """
    from efface.api.erasers import eraser_files
    from efface.attacks import ATTACKS
    from efface.cli.output import Screen

    screen = Screen(json)
    if not erasers:
        raise BadInput("Nothing to attack: give the file of an eraser; efface erase makes one.")
    files = eraser_files(erasers)
    ATTACKS.get(attack)  # an unknown name is an error before anything is loaded

    import efface
    from efface.api.attack import RESULT, TEXTS, attack_folder, stored_attack
    from efface.api.erasers import named_erasers
    from efface.cli.evaluate import percent_with_interval
    from efface.cli.finished import complete_work
    from efface.report.words import interval

    loaded = named_erasers(files, model, device)
    with complete_work(screen, stored_attack), screen.progress() as progress:
        result = efface.attack(
            loaded,
            attack,
            concept=concept,
            model=model,
            judge=judge,
            settings=scalar_options(settings or []),
            prompts=prompts,
            concept_column=concept_column,
            n=n,
            seed=seed,
            steps=steps,
            sampler=sampler,
            batch_size=batch_size,
            keep_images=keep_images,
            trust_torchscript=trust_torchscript,
            device=device,
            folder=out or attack_folder(attack, loaded, concept),
            force=force,
            progress=progress,
        )
    for name in result.erasers:
        screen.heading(f"{name}: {result.headline(name).text}")
    screen.say(f"{result.concept}, without an eraser: {interval(result.judge.recall)}")
    rows = [
        [
            name,
            *map(percent_with_interval, (attacked.pre_asr, attacked.asr, attacked.fresh_asr)),
            str(len(attacked.attempts)),
            str(attacked.errors),
        ]
        for name, attacked in result.erasers.items()
    ]
    screen.table(("rate, %", "pre_asr", "asr", "fresh_asr", "prompts", "errors"), rows)
    screen.say("pre_asr: no attack needed; asr: in any image of the search; fresh_asr: in one image at another seed")
    screen.say(f"judge {result.judge.name}: false positives {interval(result.judge.false_positive_rate)}")
    screen.say(f"{result.out}: {RESULT}, and the texts that bring the concept back in {TEXTS}")
    screen.answer(result.to_json())
    if result.errors:
        raise typer.Exit(1)
