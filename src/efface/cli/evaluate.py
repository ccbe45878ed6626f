"""`efface evaluate`: how well erasers forget, and what they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efface.cli.options import (
    BatchSize,
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
from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model as Opened
    from efface.request.record import Request


def evaluate_command(
    erasers: Erasers = None,
    protocol: Annotated[str, typer.Option("--protocol", "-p", metavar="NAME", help="See efface protocols.")] = "err",
    judge: Judge = None,
    trust_torchscript: TrustTorchscript = False,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="What to draw: a CSV, or one prompt a line.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="Pictures or statistics that a protocol reads.")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", metavar="NAME", help="See efface attacks; may be repeated."),
    ] = None,
    request: Annotated[
        Path | None, typer.Option("--request", metavar="FILE.yaml", help="Ask about this instead of what was erased.")
    ] = None,
    propose_adjacent: Annotated[
        bool, typer.Option("--propose-adjacent", help="Print what may be near what was erased, and do nothing else.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="A setting of the protocol.")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", metavar="N", min=2, help="Images a concept (default: the protocol's).")
    ] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    batch_size: BatchSize = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where the report goes.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Draw with and without each eraser, judge, and write a report. Several erasers stand side by side.

    Run again with the same folder, an interrupted evaluation goes on where it was.

    Example: efface evaluate cat-esd.training --judge clip, which compares the checkpoints of a training
    """
    from efface.api.arguments import judge_name, override, resolve_device
    from efface.api.erasers import eraser_files
    from efface.cli.evaluation import Wish, evaluated
    from efface.cli.output import Screen
    from efface.files import slug
    from efface.protocols import PROTOCOLS
    from efface.protocols.inputs import Inputs
    from efface.protocols.paper_sampling import sampling_of
    from efface.report.document import PAGE
    from efface.work_folder import claim

    screen = Screen(json)
    if not erasers:
        raise BadInput("Nothing to evaluate: give the file of an eraser; efface erase makes one.")
    files = eraser_files(erasers)
    entry = PROTOCOLS.get(protocol)
    if judge is not None and not entry.judged:
        raise BadInput(f"The protocol '{protocol}' asks no judge; leave --judge away.")
    if entry.judged and not propose_adjacent:
        judge = judge_name(model, judge)
    inputs = Inputs(prompts, data, scalar_options(settings or []), trust_torchscript)

    from efface import Eraser, Request, open_model
    from efface.eraser.base import check_base

    asked = Request.from_yaml(request) if request else None
    loaded = {name: Eraser.load(path) for name, path in files.items()}
    opened = open_model(model, resolve_device(device))
    if propose_adjacent:
        _propose(screen, opened, loaded, asked)
        return
    usual = sampling_of(entry.published, opened, inputs)
    sampling = override(usual, steps=steps, sampler=sampler, batch_size=batch_size)
    wish = Wish(protocol, judge, n or entry.n, seed, sampling, asked, inputs, attack)
    folder = out or Path(slug(f"{protocol}-{'-'.join(files)}"))
    work = {"erasers": {name: eraser.hash for name, eraser in loaded.items()}, "model": model, **wish.deciding()}
    for eraser in loaded.values():
        check_base(eraser, opened, force=False)
    with claim(folder, "evaluate", work, PAGE, force):
        evaluation = evaluated(screen, opened, loaded, wish, folder)
    screen.say(f"Report: {folder / PAGE}")
    screen.answer(evaluation.as_dict() | {"report": str(folder / PAGE)})
    if evaluation.errors:
        raise typer.Exit(1)


def _propose(screen: Any, model: Opened, erasers: dict[str, Eraser], request: Request | None) -> None:
    """Say which words are near what each eraser erased, as lines for a request."""
    from efface.protocols.neighbours import proposal

    proposed: dict[str, list[str]] = {}
    for asked in [request] if request else [eraser.request for eraser in erasers.values()]:
        proposed |= proposal(model, asked)
    screen.say("Near by their embeddings, which know spellings too; keep what is near indeed, in a request:")
    screen.say("concepts:")
    for name, words in proposed.items():
        screen.say(f"- {{name: {name}, adjacent: [{', '.join(words)}]}}")
    screen.say("and evaluate with --request FILE.yaml")
    screen.answer({"adjacent": proposed})
