"""Commands that write one eraser and are run again after they had finished, such as before a kill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efface.errors import BadInput
from efface.files import check_writable

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
