"""`efface inspect`: the content of an eraser's file, or the properties of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from efface.cli.options import Device, Force, Json, Model, UnusedSeed
from efface.cli.runtime import with_runtime


@with_runtime(generates=False)
def inspect_command(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="ERASER|MODEL", help="An eraser's file, or a model as in --model; a checkpoint: --model."
        ),
    ] = None,
    certify: Annotated[
        bool,
        typer.Option(
            "--certify", help="Compute a bound on how far --model can be brought back to an eraser's concepts."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Output file of the eraser with its certificate.")
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Print all entries of long records, such as the hashes of parameters.")
    ] = False,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Show the content of an eraser, or the properties of a model.

    Example: efface inspect cat.safetensors --certify --model path/to/model -o certified.safetensors
    """
    from efface import inspect
    from efface.api.arguments import model_from
    from efface.api.inspect import EraserInfo
    from efface.cli.output import Screen
    from efface.eraser.certificate import LIMITS

    screen = Screen(json)
    # A checkpoint in --model is a model, while the file of an argument is an eraser.
    result = inspect(
        what or model_from(model, device), certify=certify, model=model, out=out, device=device, force=force
    )
    content = result.to_json()
    names = {key: content[key] for key in _NAMES if content.get(key)}
    screen.heading(what or model)
    elsewhere = {*names, "existed"}
    screen.table(("", ""), list(_rows({key: content[key] for key in content if key not in elsewhere}, details)))
    for key, values in names.items():
        screen.say(f"{key}: {', '.join(values)}")
    if content.get("existed"):
        screen.say(f"{out} exists already.")
    if content.get("certificate"):
        screen.say(LIMITS)
    elif certify and isinstance(result, EraserInfo):
        screen.say(f"A {result.kind_of_edit} edit has no certificate.")
    screen.answer(content)


_NAMES = ("objects", "styles")  # what a closed world can draw: all of it, in lines below the table
_ENTRIES = 24  # rows of one record
_LISTED = 200  # characters of a list in one cell


def _rows(content: dict[str, Any], details: bool, prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as rows of a table; of a long record or list, the number of its entries if not `details`."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, dict) and value:
            inner = _rows(value, details, f"{prefix}{key}.")
            few = details or len(inner) <= _ENTRIES
            rows += inner if few else [(prefix + key, f"{len(inner)} entries; --details prints them")]
        elif isinstance(value, list):
            shown = ", ".join(map(str, value))
            if len(shown) <= _LISTED:
                rows.append((prefix + key, shown))
            elif details:
                rows += [("" if index else prefix + key, str(item)) for index, item in enumerate(value)]
            else:
                rows.append((prefix + key, f"{len(value)} entries, such as {value[0]}; --details prints them"))
        elif value is not None:
            rows.append((prefix + key, str(value)))
    return rows
