"""The progress callback, and the context of long work: its folder, its callback, and whether it may replace files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Progress(Protocol):
    """A callback that long work calls after each part of it."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report progress.

        Args:
            what: The work in one or two words, such as "images".
            done: How many parts are done.
            total: How many parts there are.
            note: Text to show beside the numbers, such as the current loss.
        """
        ...


@dataclass(frozen=True)
class RunContext:
    """What surrounds a training.

    Attributes:
        folder: The folder for checkpoints and the log, created when it is first needed. None stores nothing: an
            interrupted training starts again from the beginning.
        progress: The progress callback.
        force: Whether checkpoints of other work in the folder may be replaced.
    """

    folder: Path | None = None
    progress: Progress | None = None
    force: bool = False
