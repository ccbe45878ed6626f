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
    screen.heading(what or model)
    screen.table(("", ""), list(_rows(content, details)))
    if content.get("certificate"):
        screen.say(LIMITS)
    elif certify and isinstance(result, EraserInfo):
        screen.say(f"A {result.kind_of_edit} edit has no certificate.")
    screen.answer(content)


_ENTRIES = 24  # rows of one record


def _rows(content: dict[str, Any], details: bool, prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as rows of a table; of a record with many entries, their number if not `details`."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, dict) and value:
            inner = _rows(value, details, f"{prefix}{key}.")
            few = details or len(inner) <= _ENTRIES
            rows += inner if few else [(prefix + key, f"{len(inner)} entries; --details prints them")]
        elif isinstance(value, list):
            shown = ", ".join(str(item) for item in value[:8])
            rows.append((prefix + key, shown if len(value) <= 8 else f"{shown}, ... ({len(value)})"))
        elif value is not None:
            rows.append((prefix + key, str(value)))
    return rows
