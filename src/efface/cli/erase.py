"""`efface erase`: solve for an eraser and write it to one file."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli.options import ConceptColumn, Force, Gpus, Json, ReportTo, TrustTorchscript, Workers, scalar_options
from efface.cli.runtime import with_runtime
from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.api.arguments import DeviceLike
    from efface.cli.output import Screen
    from efface.eraser.eraser import Eraser
    from efface.request.mu import MuRun
    from efface.request.record import Request
    from efface.settings import Scalar


@with_runtime(generates=False)
def erase_command(
    context: typer.Context,
    concepts: Annotated[list[str] | None, typer.Argument(metavar="CONCEPT...", help="Concepts to erase.")] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="GUIDE", help="The guide, which to generate instead: one, or one per concept."),
    ] = None,
    preserve: Annotated[
        list[str] | None, typer.Option("--preserve", metavar="P", help="A prompt to preserve; may be repeated.")
    ] = None,
    preserve_file: Annotated[
        Path | None,
        typer.Option("--preserve-file", metavar="FILE", help="Prompts to preserve: one per line, or a CSV."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", metavar="NAME", help="Name of the method: see efface methods (default: uce)."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="object, style, memorised or unsafe (default: object).")
    ] = None,
    goal: Annotated[
        str | None, typer.Option("--goal", metavar="GOAL", help="erase, or debias: show every --to equally often.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge", metavar="NAME", help="Name of the judge, to debias or to detect copies: see efface judges."
        ),
    ] = None,
    trust_torchscript: TrustTorchscript = False,
    after: Annotated[
        list[Path] | None,
        typer.Option("--after", metavar="ERASER...", help="Erasers whose concepts stay erased; the result has all."),
    ] = None,
    certify: Annotated[
        bool,
        typer.Option("--certify", help="Compute a bound on how far any embedding, or any text, restores a concept."),
    ] = False,
    clip_skip: Annotated[
        int | None,
        typer.Option(
            "--clip-skip", metavar="N", min=0, help="Number of the text encoder's last layers that the pipeline skips."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE.yaml", help="A request; other options add to it.")
    ] = None,
    each: Annotated[
        Path | None,
        typer.Option("--each", metavar="FILE.csv", help="Make one eraser per concept of a dataset, in the folder -o."),
    ] = None,
    concept_column: ConceptColumn = None,
    workers: Workers = None,
    gpus: Gpus = None,
    settings: Annotated[
        list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="A setting of the method.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Output file; a folder with --each.")
    ] = None,
    report_to: ReportTo = None,
    force: Force = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="NAME", help="emoji (embedded, default), a folder, a checkpoint or a hub id."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1 or mps.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, help="Seed of methods that draw random numbers (default: 0)."),
    ] = None,
    json: Json = False,
) -> None:
    """Erase concepts: write an eraser, one file that makes a model forget them.

    Example: efface erase cat --to dog --preserve tiger -o cat.safetensors

    A method that trains writes checkpoints and its log to a folder named after the output. Run again, an interrupted
    training resumes.

    A train_config.yaml of mu also names the model, the output folder and the device; --model, -o and --device
    override it.
    """
    from efface.api.erasers import default_name
    from efface.cli.finished import eraser_at, save_or_compare
    from efface.cli.output import Screen
    from efface.files import check_suffix, check_writable, made_folder
    from efface.models.runtime import Runtime
    from efface.request.record import Request

    screen = Screen(json)
    started = time.perf_counter()
    options = scalar_options([*(settings or []), *([f"report_to={report_to}"] if report_to else [])])
    if each is not None:
        from efface.cli.erase_each import refuse, run_each

        refuse(concepts, config, goal, judge, preserve_file, certify, after)
        if clip_skip is not None:
            raise BadInput("--clip-skip is not supported with --each; make the erasers one by one, or leave it out.")
        run_each(
            context.obj,
            screen,
            each,
            out,
            to or [],
            workers,
            gpus,
            model=model or "emoji",
            method=method or "uce",
            kind=kind,
            concept_column=concept_column,
            preserve=list(dict.fromkeys(preserve or ())),
            seed=None if "seed" in options else seed,
            device=device or "auto",
            force=force,
            options=options,
        )
        return
    if concept_column is not None:
        raise BadInput("--concept-column is a column of --each FILE.csv; give that file, or leave it out.")
    if workers is not None or gpus is not None:
        raise BadInput("--workers and --gpus share the concepts of a dataset; give --each FILE.csv, or leave them out.")
    run = _run(config, model, device)
    if run.device and isinstance(device, Runtime) and device.device == "auto":  # --dtype or --offload alone
        device = replace(device, device=run.device)
    if config is None:
        if not concepts:
            raise BadInput("Nothing to erase: give a concept, e.g. efface erase cat --to dog, or --config FILE.yaml.")
        request = Request.make(
            concepts,
            to or (),
            kind=kind or "object",
            preserve=list(dict.fromkeys(preserve or ())),
            method=method or "uce",
            goal=goal or "erase",
            options=options,
            clip_skip=clip_skip,
        )
        _print_anchors(screen, concepts, request)
    else:
        if concepts or to or kind or goal:
            raise BadInput(f"The concepts are in {config}; give them, --to, --kind and --goal there or here, not both.")
        request = _extended(Request.from_yaml(config), preserve or [], method, options)
        if clip_skip is not None:
            request = request.model_copy(update={"clip_skip": clip_skip})
    target = out or (run.folder or Path()) / f"{default_name(request)}.safetensors"
    check_suffix(target, ".safetensors")
    there = None
    if out or target.parent.exists():  # a folder that a configuration names is made
        there = eraser_at(target, force)

    from efface import RunContext, erase
    from efface.methods import METHODS

    checkpoints, trains = target.with_suffix(".training"), METHODS.get(request.method).trained
    if there is not None and (there.concepts != request.names or (trains and not checkpoints.exists())):
        check_writable(target, force)  # nothing is trained or solved to find out that it is another eraser
    with made_folder(target.parent), screen.progress() as progress:
        eraser = erase(
            model or run.model or "emoji",
            request,
            preserve_file=preserve_file,
            after=after or (),
            certify=certify,
            model_config=run.model_config,
            judge=judge,
            trust_torchscript=trust_torchscript,
            seed=None if "seed" in options else seed,
            device=device or run.device or "auto",
            context=RunContext(checkpoints, progress, force),
        )
    if int(os.environ.get("RANK", 0)) > 0:  # all processes of a launch have the eraser; the first one writes it
        return
    save_or_compare(screen, eraser, target, force, there)
    if trains:
        from efface.methods.training.checkpoints import discard

        discard(checkpoints)
    _print(screen, eraser, target, certify, time.perf_counter() - started)


def _run(config: Path | None, model: str | None, device: DeviceLike | None) -> MuRun:
    """The model, folder and device that a configuration of mu names; none of them without such a file."""
    from efface.api.arguments import runtime_from
    from efface.models.storage.single_file import EMA, SUFFIXES
    from efface.request.mu import MuRun

    run = MuRun.from_yaml(config) if config else None
    if run is None:
        return MuRun(None, None, None, None)
    runtime_from(device or run.device or "auto")
    if model:
        return replace(run, model=None, model_config=None)
    if run.model is None:
        raise BadInput(f"{config} names no model; add ckpt_path, or give --model.")
    checkpoint = Path(run.model.removesuffix(EMA))
    if checkpoint.suffix.lower() in SUFFIXES and not checkpoint.is_file():
        raise BadInput(f"The ckpt_path of {config} is {run.model}, which does not exist; correct it or give --model.")
    return run


def _print_anchors(screen: Screen, given: list[str], request: Request) -> None:
    """What was read from the notation ANCHOR+TARGET."""
    if tuple(name.strip() for name in given) == request.names:
        return
    for concept in request.concepts:
        anchor = f", with the anchor '{concept.guide}'" if concept.guide else ""
        screen.say(f"Erasing '{concept.name}'{anchor}.")


def _extended(request: Request, preserve: list[str], method: str | None, options: dict[str, Scalar]) -> Request:
    """The request of a file with the additions of the command line."""
    content = request.model_dump()
    content["preserve"] = tuple(dict.fromkeys([*request.preserve, *preserve]))
    content["options"] = {**request.options, **options}
    content["method"] = method or request.method
    return type(request)(**content)


def _print(screen: Screen, eraser: Eraser, target: Path, certify: bool, total: float) -> None:
    from efface.api.result import eraser_json, sources_json
    from efface.eraser.certificate import LIMITS

    is_debiasing = eraser.request.goal == "debias"
    screen.say(f"{target}: {'debiases' if is_debiasing else 'erases'} {', '.join(eraser.concepts)}")
    screen.say(
        f"{eraser.method}, {eraser.kind_of_edit} edit of rank {eraser.rank}, {eraser.nbytes / 1024:.1f} KB, "
        f"in {total:.1f} s"
    )
    solved = eraser.parts[0] if "after" in eraser.provenance else eraser
    for run in solved.provenance.get("training", ()):
        screen.say(f"{', '.join(run['concepts'])}: {run['steps']} steps, last loss {run['losses']['loss']:.3g}")
    if recommended := _recommended(solved):
        screen.say(f"Recommended for {eraser.base.model}: {recommended}; -s preset=published turns this off.")
    if certify:
        for name, numbers in (eraser.certificate or {}).items():
            screen.say(f"Certificate of '{name}': {_bounds(numbers)}")
        has_none = f"A {eraser.kind_of_edit} edit has no certificate."
        screen.say(has_none if eraser.certificate is None else LIMITS)
    for name, shares in eraser.provenance.get("shares", [{}])[-1].items():
        percentages = ", ".join(f"{attribute} {share:.0%}" for attribute, share in shares.items())
        screen.say(f"Last images of '{name}': {percentages}")
    next_step = f"generate '{eraser.concepts[0]}' -n 8 --eraser" if is_debiasing else "evaluate"
    screen.say(f"See the effect: efface {next_step} {target}")
    seconds = {"total": total, "solve": eraser.provenance.get("seconds", {}).get("solve")}
    content = {**eraser_json(eraser, target), **sources_json(solved)}
    if "runtime" in solved.provenance:
        content["runtime"] = solved.provenance["runtime"]
    if "after" in eraser.provenance:
        content["after"] = eraser.provenance["after"]
    screen.answer({**content, "certificate": eraser.certificate, "seconds": seconds})


def _recommended(eraser: Eraser) -> str:
    """The guides and settings that the model recommended, in words; empty without any."""
    guide_from, settings_from = (eraser.provenance.get(key, {}) for key in ("guide_from", "settings_from"))
    options, concepts = eraser.request.options, eraser.request.concepts
    values = [f"the guide {c.guide} for {c.name}" for c in concepts if guide_from.get(c.name) == "recommended"]
    values += [f"{name}={options[name]}" for name, source in settings_from.items() if source == "recommended"]
    return ", ".join(values)


def _bounds(numbers: dict[str, float | None]) -> str:
    """The three numbers of a certificate in words."""
    words = {"free": "{:.1%} by any embedding", "text": "{:.1%} by any text"}
    bounds = " and ".join(word.format(numbers[name]) for name, word in words.items() if numbers[name] is not None)
    return (
        f"of its keys and values, at least {bounds} cannot be restored; no eraser with this guide reaches more than "
        f"{numbers['ceiling']:.1%}"
    )
