"""The progress callback, and the context of long work: its folder, its callback, and whether it may replace files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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


class Draw(Protocol):
    """Generates images with an edited model."""

    def __call__(self, prompt: str, n: int, edits: Sequence[Any], folder: Path) -> Sequence[NDArray[np.uint8]]:
        """Generate images and write them to a folder, as 0.png, 1.png and so on; existing files are replaced.

        Args:
            prompt: The prompt.
            n: The number of images, with the seeds 0 to n - 1.
            edits: The edits of the model (`efface.edits.kinds.Edit`).
            folder: The folder, which is created.

        Returns:
            The images, (H, W, 3) each.
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
        draw: Generates sample images during a training; `efface.erase` sets it.
    """

    folder: Path | None = None
    progress: Progress | None = None
    force: bool = False
    draw: Draw | None = None
