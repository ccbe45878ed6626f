"""Where a long piece of work may keep what it needs to be taken up again, and whom it tells how far it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Progress(Protocol):
    """Told what is being done, how much of it is done, how much there is, and a note to show beside that."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class Work:
    """What surrounds a training.

    Attributes:
        folder: for checkpoints and the log; made when it is first needed. None keeps nothing: a training that is
            interrupted starts anew.
        progress: told after each step.
        force: whether checkpoints of other work in the folder may be dropped.
    """

    folder: Path | None = None
    progress: Progress | None = None
    force: bool = False
