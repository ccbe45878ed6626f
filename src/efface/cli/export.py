"""`efface export`: an eraser in another tool's format."""

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Device, Force, Json, Model, UnusedSeed, device_of
from efface.errors import BadInput


def command(
    eraser: Annotated[Path, typer.Argument(metavar="ERASER", help="The file of an eraser.")],
    format: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="lora, kohya, diffusers, single-file or uce.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", metavar="R", min=1, help="Of a LoRA, at most; says what cutting to it loses."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="PATH", help="The file, or the folder.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """Write an eraser for another tool: a LoRA, a whole model, or whole edited weights.

    Example: efface export cat.safetensors --format kohya -o cat-lora.safetensors
    """
    from efface.cli.output import Screen, check_target, slug
    from efface.formats import EXPORTERS
    from efface.formats.folder import check_folder

    screen = Screen(json)
    if format is None:
        raise BadInput(f"Say which format with --format: {', '.join(EXPORTERS.names())}.")
    chosen = EXPORTERS.get(format)
    target = out or Path(f"{slug(eraser.stem)}-{format}{chosen.suffix}")
    (check_target if chosen.suffix else check_folder)(target, force)

    from efface import Eraser, export_eraser, open_model

    loaded = Eraser.load(eraser)
    done = export_eraser(loaded, open_model(model, device_of(device)), target, format, rank=rank, force=force)
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    content = {
        "eraser": str(eraser),
        "format": format,
        "path": str(done.path),
        "parameters": done.parameters,
        "rank": done.rank,
        "error": done.error,
        "bytes": sum(path.stat().st_size for path in files),
    }
    screen.say(f"{target}: {chosen.summary}")
    screen.say(f"{done.parameters} parameters changed" + (f", rank {done.rank}" if done.rank is not None else ""))
    if done.error:
        screen.say(f"Cutting to rank {done.rank} lost {done.error:.1%} of the change (relative Frobenius norm).")
    screen.answer(content)
