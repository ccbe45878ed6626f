"""What a judge is: images and concepts in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from efface.generation.folder import Image
    from efface.judges.verdicts import Verdict

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


@runtime_checkable
class Hesitant(Protocol):
    """A judge that is sometimes undecided."""

    def floor(self, concept: str) -> float:
        """The score below which the answer is no; from it up to the threshold the judge is undecided."""
        ...


@runtime_checkable
class Comparing(Protocol):
    """A judge of copies, which must be shown the originals."""

    def knowing(self, references: Mapping[str, Sequence[Pixels]]) -> Judge:
        """The same judge of given references, these too: pictures (H, W, 3) by what they are asked for as.

        It takes no name of a concept for a path, whatever lies in the working directory.
        """
        ...


@runtime_checkable
class KeepsResults(Protocol):
    """A judge whose users also expect a file of results of its own.

    Attributes:
        results: The file's name.
    """

    results: str

    def write_results(self, path: Path, images: Sequence[Image], verdicts: Sequence[Verdict], force: bool) -> None:
        """Write the file."""
        ...


@runtime_checkable
class PassesOn(Protocol):
    """A judge that has others answer."""

    def answering(self, concept: str) -> Judge:
        """Who is asked for this concept."""
        ...


class Seen(NamedTuple):
    """What a judge with a closed world recognises in one image; `None` is "none of these"."""

    object: str | None
    style: str | None
    object_p: float
    style_p: float


@dataclass(frozen=True)
class Opening:
    """How a judge is asked for.

    Attributes:
        weights: What follows the colon in `name:weights`: a file, a folder or a hub id; empty for the judge's own.
        option: What follows the comma in `name:weights,option`; each judge says what it takes there.
        alternatives: Concepts that the run will tell apart, for judges that choose among several.
        device: The torch device to compute on.
        trust_torchscript: Whether the user lets a TorchScript file, which is a program, run.
    """

    weights: str = ""
    option: str = ""
    alternatives: tuple[str, ...] = ()
    device: str = "cpu"
    trust_torchscript: bool = False


@dataclass(frozen=True)
class JudgeEntry:
    """A judge in the registry.

    Attributes:
        name: What it is called on the command line.
        summary: One line for `efface judges`.
        source: The paper or repository of the judge.
        open: Loads it.
        takes_weights: Whether something may follow the colon in `name:weights`.
        takes_option: Whether something may follow the comma in `name:weights,option`.
    """

    name: str
    summary: str
    source: str
    open: Callable[[Opening], Judge]
    takes_weights: bool = True
    takes_option: bool = True
