"""Commands that are run again after they had finished, such as before a kill: with one eraser, or with a folder."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from efface.errors import AlreadyComplete, BadInput
from efface.files import check_writable
from efface.parsing import library_errors

if TYPE_CHECKING:
    from efface.cli.output import Screen
    from efface.eraser.eraser import Eraser


def eraser_at(target: Path, force: bool) -> Eraser | None:
    """The eraser that a command may have written to its target before.

    Args:
        target: The file to write.
        force: Whether an existing file is replaced.

    Returns:
        None if there is none, or it is replaced.

    Raises:
        BadFile: The target cannot be written, or another file is there.
    """
    if force or not target.is_file():
        check_writable(target, force)
        return None
    from efface.eraser.eraser import Eraser

    try:
        return Eraser.load(target)
    except BadInput:
        check_writable(target, force)
        raise


def save_or_compare(screen: Screen, eraser: Eraser, target: Path, force: bool, there: Eraser | None) -> None:
    """Write an eraser, unless the same one is there.

    Args:
        screen: Where that is printed.
        eraser: The eraser.
        target: The file.
        force: Whether an existing file is replaced.
        there: The eraser at the target (`eraser_at`).

    Raises:
        BadFile: Another eraser is there, or the file cannot be written.
    """
    if there is not None and there.hash == eraser.hash and there.request == eraser.request:
        screen.say(f"{target} exists already and is this eraser; nothing was written.")
    else:
        eraser.save(target, force=force)


@contextmanager
def complete_work(screen: Screen, answer: Callable[[Path], dict[str, Any]]) -> Generator[None, None, None]:
    """End the command if its folder has the complete result of the same work: one line, and the JSON of the first run.

    Args:
        screen: Where both are printed.
        answer: Reads the JSON object from the folder.

    Raises:
        Exit: The command ends as the first run did.
        BadFile: The result cannot be read.
    """
    try:
        yield
    except AlreadyComplete as done:
        content = answer(done.folder)
        with library_errors(f"Cannot read the result in {done.folder}"):
            has_errors = any(result["errors"] for result in content.get("erasers", {}).values())
        screen.say(f"{done.folder} has the complete result of this command, see {done.result}; nothing was done.")
        screen.answer(content)
        raise typer.Exit(int(has_errors)) from None
