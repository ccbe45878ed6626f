"""The contract of judges: images and concepts in, scores and verdicts out.

A judge is one file: a class with two attributes and five methods (`Judge`), and an entry that opens it (`JudgeEntry`).
A complete judge, which asks how red an image is:

    import numpy as np

    from efface.judges.base import JudgeEntry, JudgeOptions


    class RedJudge:
        name, version = "red", "1"

        def knows(self, concept):
            return concept == "red"

        def peers(self, concept):
            return ()

        def same(self, one, other):
            return one == other

        def threshold(self, concept):
            return 0.5

        def scores(self, images, concepts):
            sums = images.astype(np.float64).sum(axis=(1, 2))
            red = sums[:, 0] / sums.sum(axis=1)
            return np.stack([red for _ in concepts], axis=1)


    def open_red(options: JudgeOptions) -> RedJudge:
        return RedJudge()


    ENTRY = JudgeEntry("red", "how red an image is", "my paper", open_red, takes_weights=False, takes_option=False)

Another package announces the entry in its pyproject.toml; `efface judge images --judge red -q red` then finds it:

    [project.entry-points."efface.judges"]
    red = "my_package.red:ENTRY"

`efface.judges.shared` has base classes for three kinds: a closed world of classes (`ClassifierJudge`), a few questions
with a threshold each (`ThresholdJudge`), and copies of reference pictures (`ReferenceJudgeBase`). A judge that can do
more has the members of `HasUndecidedBand`, `HasWorld`, `ReferenceJudge` or `HasTable` too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from efface.generation.folder import Pixels

if TYPE_CHECKING:
    from efface.models.builtin import World

Scores = NDArray[np.float64]
Answer = Literal["yes", "no", "undecided", "error", "broken"]


class Judge(Protocol):
    """Decides whether an image shows a concept.

    Attributes:
        name: The judge's name on the command line.
        version: Identifies weights and settings; two judges of one name and version give the same scores.
    """

    name: str
    version: str

    def knows(self, concept: str) -> bool:
        """Whether the judge can answer questions about this concept."""
        ...

    def peers(self, concept: str) -> tuple[str, ...]:
        """Other concepts of the same kind that the judge distinguishes from this one; empty if any word is allowed."""
        ...

    def same(self, one: str, other: str) -> bool:
        """Whether two words mean one concept to the judge (`kitten` and `cat`)."""
        ...

    def threshold(self, concept: str) -> float:
        """The lowest score that counts as yes."""
        ...

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        """Score each concept in each image.

        Args:
            images: Of shape (n, H, W, 3).
            concepts: The m concepts, all of which the judge knows.

        Returns:
            Scores of shape (n, m), in [0, 1]; NaN where the judge has no answer.

        Raises:
            BadInput: The judge does not know one of the concepts.
        """
        ...


@dataclass(frozen=True)
class Verdict:
    """A judge's answer to one question about one image.

    Attributes:
        file_name: The image.
        question: The concept in question.
        answer: `yes`, `no`, `undecided` or `error`.
        score: The judge's confidence in a yes; NaN on an error.
        judge: The judge's name.
        judge_version: The judge's version.
        threshold: The lowest score that counts as yes.
        error: The reason of an error, else empty.
    """

    file_name: str
    question: str
    answer: Answer
    score: float
    judge: str
    judge_version: str
    threshold: float
    error: str = ""


@runtime_checkable
class HasUndecidedBand(Protocol):
    """A judge that is undecided between two scores."""

    def floor(self, concept: str) -> float:
        """The score below which the answer is no. From this score up to the threshold the answer is undecided."""
        ...


@runtime_checkable
class HasWorld(Protocol):
    """A judge of a closed world, in which every object, style and word is known."""

    @property
    def world(self) -> World:
        """The world that the judge was trained on."""
        ...


@runtime_checkable
class ReferenceJudge(Protocol):
    """A judge of copies, which compares images with reference pictures."""

    def with_references(self, references: Mapping[str, Sequence[Pixels]]) -> Judge:
        """Return the same judge with more questions.

        The result never reads a question as a path, whatever lies in the working directory.

        Args:
            references: Pictures of shape (H, W, 3) by the question that they answer.
        """
        ...


@runtime_checkable
class HasTable(Protocol):
    """A judge whose users expect a table of counts.

    Attributes:
        table: The questions of the cells of each row, by the name of the row.
        columns: The names of the columns.
    """

    table: Mapping[str, Sequence[str]]
    columns: Sequence[str]


@dataclass(frozen=True)
class JudgeOptions:
    """The options with which a judge is opened.

    Attributes:
        weights: The text after the colon in `name:weights`: a file, a folder or a hub id. Empty means the default.
        option: The text after the comma in `name:weights,option`; each judge documents its meaning.
        alternatives: Concepts that the run distinguishes, for judges that choose among several.
        device: The torch device to compute on.
        trust_torchscript: Whether a TorchScript file, which is a program, may be run.
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
        name: The judge's name on the command line.
        summary: One line for `efface judges`.
        source: The paper or repository of the judge.
        open: Opens the judge.
        takes_weights: Whether `name:weights` is allowed.
        takes_option: Whether `name:weights,option` is allowed.
    """

    name: str
    summary: str
    source: str
    open: Callable[[JudgeOptions], Judge]
    takes_weights: bool = True
    takes_option: bool = True
