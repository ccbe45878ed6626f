"""Options that several commands share, and the `key=value` pairs of `-s`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from efface.errors import BadInput

Model = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME", help="emoji (embedded), a folder, a checkpoint or a hub id.")
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Image i of a prompt has seed N + i.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to standard output, and the rest to standard error.")
]
Steps = Annotated[int | None, typer.Option("--steps", metavar="K", min=1, help="Number of sampling steps.")]
Sampler = Annotated[
    str | None, typer.Option("--sampler", metavar="NAME", help="dpm++, ddim, lms or own (the model's own).")
]
Eta = Annotated[
    float | None, typer.Option("--eta", metavar="X", help="Noise of DDIM: 0 (default) for none, 1 for that of DDPM.")
]
ReportTo = Annotated[
    str | None, typer.Option("--report-to", metavar="NAME", help="A tracker to log to, such as wandb.")
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="B", min=1, help="Images per batch; changes speed only.")
]
Erasers = Annotated[
    list[str] | None,
    typer.Argument(metavar="ERASER...", help="Files of erasers, folders of them, or patterns in quotes."),
]
Judge = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="NAME", help="Name of the judge: see efface judges (default: the embedded model's)."
    ),
]
TrustTorchscript = Annotated[
    bool, typer.Option("--trust-torchscript", help="Run a judge's TorchScript file, which is a program.")
]
ConceptColumn = Annotated[
    str | None,
    typer.Option("--concept-column", metavar="COLUMN", help="Column of the file with each prompt's concept, or none."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=1, help="Processes that share the work and this machine's cores."),
]
Gpus = Annotated[
    str | None, typer.Option("--gpus", metavar="0,1", help="GPUs that share the work, one process on each.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace existing output.")]

# Every command accepts these options, so that scripts can pass the same ones to all; some commands ignore them.
UnusedModel = Annotated[str, typer.Option("--model", "-m", hidden=True)]
UnusedDevice = Annotated[str, typer.Option("--device", hidden=True)]
UnusedSeed = Annotated[int, typer.Option("--seed", hidden=True)]


#: A value such as the separator "," or "|", which would be YAML's syntax.
_PUNCTUATION = re.compile(r"[^\w\s\"']+")


def scalar_options(pairs: list[str]) -> dict[str, bool | int | float | str]:
    """Parse `key=value` pairs; each value is YAML: true, 3, 0.1 or a word.

    Raises:
        BadInput: A pair has no "=", a key is given twice, or a value is a list or a mapping.
    """
    from efface.parsing import parse_yaml

    options: dict[str, bool | int | float | str] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise BadInput(f"-s {pair}: write key=value, e.g. -s erase_scale=1.")
        if key.strip() in options:
            raise BadInput(f"-s {key.strip()} is given twice; give it once.")
        try:
            # YAML 1.1 reads 1e-3 as a word, Python as a number.
            value: object = text
            if _is_exponential(text):
                value = float(text)
            elif not _PUNCTUATION.fullmatch(text):
                value = parse_yaml(text)
        except ValueError as error:
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
