"""What a judge is: images and concepts in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Scores = NDArray[np.float64]


class Judge(Protocol):
    """Says whether an image shows a concept.

    Attributes:
        name: What it is called on the command line.
        version: Of weights and settings; two judges of one name and version give the same scores.
    """

    name: str
    version: str

    def knows(self, concept: str) -> bool:
        """Whether it can be asked for this concept at all."""
        ...

    def peers(self, concept: str) -> tuple[str, ...]:
        """Other concepts of the same sort that it tells apart from this one; empty if its world is open."""
        ...

    def same(self, one: str, other: str) -> bool:
        """Whether two words mean one concept to it (`kitten` and `cat`)."""
        ...

    def threshold(self, concept: str) -> float:
        """The score from which on the answer is yes."""
        ...

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        """How sure it is of each concept in each image.

        Args:
            images: (n, H, W, 3).
            concepts: m concepts that it knows.

        Returns:
            (n, m), in [0, 1]; NaN where it has no answer.

        Raises:
            BadInput: It does not know one of the concepts.
        """
        ...


class Seen(NamedTuple):
    """What a judge with a closed world recognises in one image; `None` is "none of these"."""

    object: str | None
    style: str | None
    object_p: float
    style_p: float


@dataclass(frozen=True)
class JudgeEntry:
    """A judge in the registry.

    Attributes:
        name: What it is called on the command line.
        summary: One line for `efface judges`.
        source: The paper or repository of the judge.
        open: Loads it. Takes what follows the colon in `name:argument` (weights; empty for the judge's own) and the
            concepts that the run will tell apart, for judges that choose among alternatives.
    """

    name: str
    summary: str
    source: str
    open: Callable[[str, Sequence[str]], Judge]
