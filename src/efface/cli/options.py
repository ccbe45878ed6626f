"""Options that every command takes, written once."""

import os
from collections.abc import Iterable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.generation import Sampling

Model = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME", help="'emoji' (embedded), a folder, checkpoint or hub id.")
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Image i of a prompt uses seed N + i.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output; all else on standard error.")]
Steps = Annotated[int | None, typer.Option("--steps", metavar="K", min=1, help="Sampling steps.")]
Sampler = Annotated[
    str | None, typer.Option("--sampler", metavar="NAME", help="dpm++, ddim, lms or own (the model's).")
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="B", min=1, help="Images at once; changes speed only.")
]
Erasers = Annotated[
    list[str] | None,
    typer.Argument(metavar="ERASER...", help="Files of erasers, folders of them, or patterns in quotes."),
]
Judge = Annotated[
    str | None, typer.Option("--judge", metavar="NAME", help="See efface judges (default: the embedded model's own).")
]
TrustTorchscript = Annotated[
    bool, typer.Option("--trust-torchscript", help="Let a judge's TorchScript file, which is a program, run.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what is already there.")]

# The commands that list names need neither model, device nor seed, but scripts may pass the same options to all.
UnusedModel = Annotated[str, typer.Option("--model", "-m", hidden=True)]
UnusedDevice = Annotated[str, typer.Option("--device", hidden=True)]
UnusedSeed = Annotated[int, typer.Option("--seed", hidden=True)]


def device_of(name: str) -> str:
    """The torch device a user means: `auto` is the fastest there is, for each of launched processes its own."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"Unknown device '{name}'; use auto, cpu, cuda, cuda:1 or mps.") from error
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device.type, False):
        raise BadInput(f"The device '{name}' is not available on this machine; use --device auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"There is no device '{name}' here; there are {torch.cuda.device_count()}, counted from 0.")
    return name


def judge_for(model: str, name: str | None) -> str:
    """The judge that a user means: for the embedded model its own, if none is named.

    Raises:
        BadInput: none is named for another model.
    """
    if name is None and model != "emoji":
        raise BadInput(f"Choose a --judge for {model}, e.g. --judge clip:openai/clip-vit-base-patch32.")
    return name or "emoji"


def with_given(usual: "Sampling", **given: Any) -> "Sampling":
    """A sampling with those of its settings changed that a user gave."""
    return replace(usual, **{key: value for key, value in given.items() if value is not None})


def scalar_options(pairs: list[str]) -> dict[str, bool | int | float | str]:
    """`key=value` pairs with each value read as YAML reads it: true, 3, 0.1 or a word.

    Raises:
        BadInput: a pair without "=", a key given twice, or a value that is a list or a mapping.
    """
    import yaml

    options: dict[str, bool | int | float | str] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise BadInput(f"-s {pair}: write key=value, e.g. -s erase_scale=1.")
        if key.strip() in options:
            raise BadInput(f"-s {key.strip()} is given twice; give it once.")
        try:
            # YAML 1.1 takes 1e-3 for a word; numbers are read as Python reads them.
            value = float(text) if _is_exponential(text) else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise BadInput(f"-s {pair}: cannot read the value '{text}'.") from error
        if not isinstance(value, bool | int | float | str):
            raise BadInput(f"-s {pair}: the value must be true, false, a number or a word.")
        options[key.strip()] = value
    return options


def _is_exponential(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "e" in text.lower()


#: Columns of a CSV that say what to keep; of several, the first of these. Published lists of artists repeat each name
#: in many prompts.
_KEPT = ("concept", "artist", "name", "prompt")


def preserved_in(path: Path) -> list[str]:
    """What a file asks to keep, each once: the lines of a text file, or one column of a CSV.

    Raises:
        BadInput: the file cannot be read, has no such column, or holds nothing.
    """
    try:
        # Not `splitlines`: to that, a form feed or U+2028 within a field ends the row.
        lines = StringIO(path.read_text(encoding="utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise BadInput(f"Cannot read {path}: it is not UTF-8 text.") from error
    except OSError as error:
        raise BadInput(f"Cannot read {path}: {error.strerror}.") from error
    values = _column(path, lines) if path.suffix.lower() == ".csv" else lines
    kept = list(dict.fromkeys(value.strip() for value in values if value.strip()))
    if not kept:
        raise BadInput(f"{path} is empty; write one prompt a line, or a CSV with a column {' or '.join(_KEPT)}.")
    return kept


def _column(path: Path, lines: Iterable[str]) -> list[str]:
    import csv

    try:
        reader = csv.DictReader(lines, skipinitialspace=True)
        columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
        chosen = next((columns[name] for name in _KEPT if name in columns), None)
        if columns and chosen is None:
            raise BadInput(f"{path} has none of the columns {', '.join(_KEPT)}, only {', '.join(columns)}; rename one.")
        return [row[chosen] or "" for row in reader]
    except csv.Error as error:
        raise BadInput(f"{path} is not a CSV file: {error}.") from error
