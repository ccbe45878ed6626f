"""`efface erase`: solve for an eraser and write it to one file."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from efface.cli.options import Device, Force, Json, Model, TrustTorchscript, device_of, preserved_in, scalar_options
from efface.errors import BadInput


def command(
    concepts: Annotated[list[str] | None, typer.Argument(metavar="CONCEPT...", help="What to erase.")] = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="GUIDE", help="What to draw instead: one, or one a concept.")
    ] = None,
    preserve: Annotated[list[str] | None, typer.Option("--preserve", metavar="P", help="A prompt to keep.")] = None,
    preserve_file: Annotated[
        Path | None, typer.Option("--preserve-file", metavar="FILE", help="Prompts to keep: one a line, or a CSV.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="See efface methods (default: uce).")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="object, style, memorised or unsafe (default: object).")
    ] = None,
    goal: Annotated[
        str | None, typer.Option("--goal", metavar="GOAL", help="erase, or debias: draw every --to as often.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="NAME", help="Who judges images, to debias or to find copies (efface judges)."),
    ] = None,
    trust_torchscript: TrustTorchscript = False,
    certify: Annotated[
        bool, typer.Option("--certify", help="Say how far any embedding, or any text, can bring a concept back.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE.yaml", help="A request; other options add to it.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="A setting of the method.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where the eraser goes.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Of methods that draw at random (default: 0).")
    ] = None,
    json: Json = False,
) -> None:
    """Make an eraser: one file that makes a model forget.

    Example: efface erase cat --to dog --preserve tiger -o cat.safetensors

    A method that trains keeps checkpoints and its log in a folder named after the output: run again, an interrupted
    command goes on where it was.
    """
    from efface.cli.output import Screen, check_target
    from efface.request.record import Request

    screen = Screen(json)
    started = time.perf_counter()
    options = scalar_options(settings or [])
    listed: Iterable[str] = preserved_in(preserve_file) if preserve_file else ()
    kept = list(dict.fromkeys([*(preserve or ()), *listed]))
    if config is None:
        if not concepts:
            raise BadInput("Nothing to erase: give a concept, e.g. efface erase cat --to dog, or --config FILE.yaml.")
        request = Request.make(
            concepts,
            to or (),
            kind=kind or "object",
            preserve=kept,
            method=method or "uce",
            goal=goal or "erase",
            options=options,
        )
    else:
        if concepts or to or kind or goal:
            raise BadInput(f"The concepts are in {config}; give them, --to, --kind and --goal there or here, not both.")
        request = _extended(Request.from_yaml(config), kept, method, options)
    target = out or Path(f"{_name(request.names)}-{request.method}.safetensors")
    check_target(target, force)

    from efface import RunContext, erase, open_model
    from efface.eraser.certificate import LIMITS
    from efface.methods import METHODS

    chosen = METHODS.get(request.method)
    request = _completed(request, preserve_file is not None, options.get("seed", seed))
    asked = _judge(request, model, judge, device_of(device), trust_torchscript)
    folder = target.with_suffix(".training")
    with screen.progress() as tell:
        opened = open_model(model, device_of(device))
        eraser = erase(opened, request, certify=certify, judge=asked, work=RunContext(folder, tell, force))
    if int(os.environ.get("RANK", 0)) > 0:  # of processes launched together, the first writes what all have
        return
    eraser.save(target, force=force)
    if chosen.trained:
        from efface.methods.training.checkpoints import discard

        discard(folder)
    seconds = {"total": time.perf_counter() - started, "solve": eraser.provenance.get("seconds", {}).get("solve")}
    does = "debiases" if request.goal == "debias" else "erases"
    screen.say(f"{target}: {does} {', '.join(eraser.concepts)}")
    screen.say(
        f"{eraser.method}, {eraser.kind_of_edit} edit of rank {eraser.rank}, {eraser.nbytes / 1024:.1f} KB, "
        f"in {seconds['total']:.1f} s"
    )
    for name, numbers in (eraser.certificate or {}).items():
        screen.say(f"Out of reach of '{name}': {_bounds(numbers)}")
    if eraser.certificate is not None:
        screen.say(LIMITS)
    elif certify:
        screen.say(f"A {eraser.kind_of_edit} edit has no certificate.")
    for name, shares in eraser.provenance.get("shares", [{}])[-1].items():
        found = ", ".join(f"{attribute} {share:.0%}" for attribute, share in shares.items())
        screen.say(f"Last images of '{name}': {found}")
    see = f"generate '{request.names[0]}' -n 8 --eraser" if request.goal == "debias" else "evaluate"
    screen.say(f"See what it does: efface {see} {target}")
    screen.answer(
        {
            "eraser": str(target),
            "method": eraser.method,
            "concepts": list(eraser.concepts),
            "kind_of_edit": eraser.kind_of_edit,
            "rank": eraser.rank,
            "bytes": eraser.nbytes,
            "certificate": eraser.certificate,
            "seconds": seconds,
        }
    )


def _completed(request: Any, protects_file: bool, seed: Any) -> Any:
    """The request with the seed, and without prompts that a method protects by itself where a file stands in for them.

    Both are settings of the method, if it has such. A seed of the command line takes the place of a request file's.
    """
    from efface.methods import METHODS

    known = METHODS.get(request.method).config.model_fields
    options = dict(request.options)
    if protects_file and "everyday" in known:
        options.setdefault("everyday", False)
    if seed is not None and "seed" in known:
        options["seed"] = seed
    return request.model_copy(update={"options": options})


def _judge(request: Any, model: str, name: str | None, device: str, trust_torchscript: bool) -> Any:
    """Who judges, where the method needs it: to debias the embedded judge or the CLIP of UCE's script, else none."""
    if request.goal != "debias" and name is None:
        return None
    from efface.judges import open_judge
    from efface.methods import METHODS

    if request.goal == "debias":
        attributes = [attribute for concept in request.concepts for attribute in concept.attributes]
        fallback = "emoji" if model == "emoji" else "clip:openai/clip-vit-base-patch32"
        return open_judge(name or fallback, tuple(dict.fromkeys(attributes)), device, trust_torchscript)
    is_memorised = any(concept.kind == "memorised" for concept in request.concepts)
    if "copies" not in METHODS.get(request.method).needs or not is_memorised:
        raise BadInput(
            f"--judge {name} is for --goal debias, and for ablate to find copies of a memorised picture; leave it out, "
            "and judge with efface evaluate."
        )
    assert name is not None
    return open_judge(name, (), device, trust_torchscript)


def _bounds(numbers: dict[str, float | None]) -> str:
    """The three numbers of a certificate in words."""
    words = {"free": "of any embedding", "text": "of any text", "ceiling": "at best"}
    return ", ".join(f"{value:.1%} {words[name]}" for name, value in numbers.items() if value is not None)


def _extended(request: Any, kept: list[str], method: str | None, options: dict[str, Any]) -> Any:
    """The request of a file with what the command line adds to it."""
    content = request.model_dump()
    content["preserve"] = tuple(dict.fromkeys([*request.preserve, *kept]))
    content["options"] = {**request.options, **options}
    content["method"] = method or request.method
    return type(request)(**content)


def _name(concepts: tuple[str, ...]) -> str:
    """A file name that tells up to three concepts, and how many more there are."""
    from efface.cli.output import slug

    name = "-".join(slug(concept, 24) for concept in concepts[:3])
    return name if len(concepts) <= 3 else f"{name}-and-{len(concepts) - 3}-more"
