"""`efface inspect`: what is in an eraser's file, or what a model has."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efface.cli.options import Device, Force, Json, Model, UnusedSeed, device_of
from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model as OpenedModel


def command(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="ERASER|MODEL", help="An eraser's file, or a model as in --model; a checkpoint: --model."
        ),
    ] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Say how far --model can be brought to draw an eraser's concepts again.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where the eraser goes with its certificate.")
    ] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Show what an eraser erases and how it was made, or what a model can be asked for.

    Example: efface inspect cat.safetensors --certify --model path/to/model -o certified.safetensors
    """
    from efface import open_model
    from efface.cli.output import Screen, check_target
    from efface.eraser.certificate import LIMITS
    from efface.eraser.certificate import certify as certified
    from efface.eraser.eraser import Eraser

    screen = Screen(json)
    name, where = what or model, device_of(device)
    eraser = None
    if what is not None and (Path(name).is_file() or name.endswith(".safetensors")):
        eraser = Eraser.load(name)
    if certify and eraser is None:
        raise BadInput("--certify says how far an eraser can be undone; give the eraser's file, and --model.")
    if out is not None and not certify:
        raise BadInput("-o is where an eraser goes with its certificate; add --certify.")
    if out is not None:
        check_target(out, force)
    if eraser is not None and certify:
        eraser = certified(open_model(model, where), eraser)
        if out is not None and eraser.certificate is not None:
            eraser.save(out, force)
    content = _model(name, where) if eraser is None else _eraser(Path(name), eraser)
    screen.heading(name)
    screen.table(("", ""), list(_rows(content)))
    if content.get("certificate"):
        screen.say(LIMITS)
    elif certify:
        screen.say(f"A {content['kind_of_edit']} edit has no certificate.")
    screen.answer(content)


def _eraser(path: Path, eraser: "Eraser") -> dict[str, Any]:
    from efface.eraser.file import header_of

    return {
        "eraser": str(path),
        "method": eraser.method,
        "concepts": list(eraser.concepts),
        "kind_of_edit": eraser.kind_of_edit,
        "rank": eraser.rank,
        "bytes": eraser.nbytes,
        "file_bytes": path.stat().st_size,
        "hash": eraser.hash,
        "components": _components(eraser),
        "certificate": eraser.certificate,
        **header_of(eraser),
    }


def _components(eraser: "Eraser") -> list[dict[str, Any]]:
    """Each concept's own part, where the method can tell them apart; else the whole as one."""
    from efface.eraser.certificate import uncertified
    from efface.errors import BadRequest

    bare = uncertified(eraser)  # certifying each part anew would take longer than solving for it
    try:
        parts = [([name], bare.only(name)) for name in eraser.concepts]
    except BadRequest:  # erased jointly
        parts = [(list(eraser.concepts), eraser)]
    return [{"concepts": names, "rank": part.rank, "bytes": part.nbytes} for names, part in parts]


def _model(name: str, device: str) -> dict[str, Any]:
    from efface import open_model

    model = open_model(name, device)
    content: dict[str, Any] = {
        "model": model.name,
        "family": model.family,
        "hash": model.hash,
        "text_width": model.width,
        "max_tokens": model.max_tokens,
        "text_parameters": _readers(model),
        "streams": {
            stream: {"width": reader.width, "argument": argument, "text_parameters": _readers(reader)}
            for stream, argument in model.streams.items()
            for reader in [model.reading(stream)]
        },
        "objects": None,
        "styles": None,
    }
    if name == "emoji":
        from efface.models.emoji import catalogue

        world = catalogue()
        content["objects"] = [thing.name for thing in world.objects]
        content["styles"] = [style.name for style in world.styles]
    return content


def _readers(model: "OpenedModel") -> list[str] | str:
    """Names of the weights that read the text, or why it is not weights that do."""
    from efface.errors import BadInput

    try:
        return list(model.text_parameters())
    except BadInput as error:
        return str(error)


def _rows(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as rows for people."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, dict) and value:
            rows += _rows(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            shown = ", ".join(str(item) for item in value[:8])
            rows.append((prefix + key, shown if len(value) <= 8 else f"{shown}, ... ({len(value)})"))
        elif value is not None:
            rows.append((prefix + key, str(value)))
    return rows
