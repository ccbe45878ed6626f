"""`efface plan`: what fits into the memory of a GPU, before anything is downloaded or loaded."""

from __future__ import annotations

from typing import Annotated

import typer

from efface.cli.options import Json, UnusedDevice, UnusedModel, UnusedSeed, scalar_options
from efface.errors import BadInput

_GIB = 2**30


def plan_command(
    name: Annotated[str | None, typer.Argument(metavar="MODEL", help="As in --model.")] = None,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="Name of the method: see efface methods.")
    ] = "uce",
    vram: Annotated[float | None, typer.Option("--vram", metavar="GIB", help="Memory of the GPU in GiB.")] = None,
    size: Annotated[
        int | None, typer.Option("--size", metavar="PIXELS", min=8, help="Side of an image (default: the model's).")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="A setting of the method.")
    ] = None,
    model: UnusedModel = "emoji",
    device: UnusedDevice = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Estimate the memory that a method and the generation of an image need, from configurations and headers alone.

    Example: efface plan path/to/sdxl --method esd --vram 24 -s train_method=esd-x
    """
    from efface import plan
    from efface.cli.output import Screen

    if "size" in (options := scalar_options(settings or [])) or "vram" in options:
        raise BadInput("Give the size with --size, and the memory with --vram.")
    screen = Screen(json)
    result = plan(name or model, method, vram=vram, size=size, **options)
    screen.heading(result.model)
    screen.table(
        ("part", "parameters", "float32", "bf16"),
        [
            (part, f"{planned.parameters / 1e6:.1f} M", *(_gib(count) for count in planned.bytes.values()))
            for part, planned in result.parts.items()
        ],
    )
    screen.table(
        ("work", "type", "offload", "quantize", "peak, estimated", "fits"),
        [(w.work, w.dtype, w.offload, w.quantize, _gib(w.bytes), w.fits or "") for w in result.work],
    )
    if result.trained:
        screen.say(
            f"{result.method} trains {result.trained / 1e6:.1f} M parameters; gradient checkpointing is "
            "-s gradient_checkpointing=true."
        )
    screen.answer(result.to_json())


def _gib(count: int) -> str:
    return f"{count / _GIB:.2f} GiB"
