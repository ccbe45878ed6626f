"""`efface generate --classes`: images for training, in one folder per class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.cli.output import Screen


def run_classes(screen: Screen, file: Path, out: Path | None, unused: Mapping[str, object], **rest: Any) -> None:
    """Generate the images and print the result.

    Args:
        screen: Where the result is printed.
        file: The CSV with the classes.
        out: The folder for the classes' folders.
        unused: The values of options that `--classes` does not use, by name.
        **rest: Other arguments of `efface.generate_classes`.

    Raises:
        BadInput: An option was given that `--classes` does not use, or there is no output folder.
        Exit: An image could not be generated.
    """
    names = [name for name, value in unused.items() if value]
    if names:
        raise BadInput(f"--classes takes the prompts from its file, and no {names[0]}; leave that out.")
    if out is None:
        raise BadInput("--classes makes several folders; give the folder for them with -o DIR.")

    from efface import generate_classes

    with screen.progress() as progress:
        result = generate_classes(file, out, progress=progress, **rest)
    screen.say(f"{out}: {result.images} images of {len(result.classes)} classes in {result.seconds:.1f} s")
    screen.answer(result.to_json())
    if result.errors:
        screen.say(f"{result.errors} images could not be generated; see errors.jsonl in the folders.")
        raise typer.Exit(1)
