"""What a method is: its sources, its settings, a function that solves a request, and one that combines solutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from efface.edits.kinds import Edit, KindOfEdit
    from efface.edits.solution import Solution
    from efface.request.record import Goal, Request
    from efface.settings import Settings

Tool = Literal["context", "copies", "latents", "measure", "pictures", "progress", "read_eraser", "write_snapshot"]


class Latents(Protocol):
    """Draws with the unedited model."""

    def __call__(
        self,
        prompt: str,
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        sampler: str,
        clip_skip: int | None = None,
    ) -> Tensor:
        """The latents of one prompt, one a seed, (n, C, h, w), float32."""
        ...


class Pictures(Protocol):
    """Draws with the unedited model, no picture twice; or reads what somebody drew. Pictures are (H, W, 3)."""

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        sampler: str,
        negative: str | None = None,
        clip_skip: int | None = None,
        what: str = "pictures",
    ) -> Sequence[NDArray[np.uint8]]:
        """A picture for each prompt and its seed; `what` is being done, for whom it is told."""
        ...

    def read(self, folder: Path) -> Iterable[tuple[str, NDArray[np.uint8]]]:
        """A folder's pictures one by one, each with the prompt that it was drawn by, "" where that is not known."""
        ...


class CopyDetector(Protocol):
    """Compares pictures."""

    def __call__(self, pictures: Sequence[NDArray[np.uint8]], original: Path) -> Sequence[bool]:
        """Whether each of some pictures, all of one size, is a copy of the one in a file."""
        ...


class Measure(Protocol):
    """Draws and judges."""

    def __call__(
        self,
        prompt: str,
        attributes: Sequence[str],
        edits: Sequence[Edit],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        clip_skip: int | None = None,
    ) -> Sequence[float]:
        """The share of one prompt's images, drawn with `edits` on the model, that show each attribute most."""
        ...


class EraserReader(Protocol):
    """Reads erasers that exist already."""

    def __call__(self, path: str) -> Sequence[Edit]:
        """The edits of an eraser's file, after checking that it was made for the model.

        Raises:
            BadFile: The file is no eraser.
            WrongBase: The eraser was made for another model.
        """
        ...


class SnapshotWriter(Protocol):
    """Writes erasers while a training runs."""

    def __call__(self, solution: Solution, path: Path) -> None:
        """Write the eraser that a solution makes at this step; an existing file is replaced."""
        ...


class CannotCombine(Exception):  # noqa: N818 - an answer, not an error
    """Solutions cannot be solved as one.

    Args:
        reason: Why, as a clause that completes "cannot be solved together, as ...".
        sum_is_exact: Whether the sum of their edits is what one request for all concepts would have made, so that
            there is nothing to warn of.
    """

    def __init__(self, reason: str, sum_is_exact: bool = False) -> None:
        super().__init__(reason)
        self.sum_is_exact = sum_is_exact


@dataclass(frozen=True)
class Method:
    """One way to erase.

    Attributes:
        name: Its name on the command line.
        summary: One line for `efface methods`.
        paper: Link to the paper.
        repository: Link to the reference implementation.
        edit: The kind of edit that it makes.
        config: Its settings, with the published defaults.
        erase: (model, request, validated settings, **tools) -> the solution for the text stream that the model reads.
        combine: (solutions of one configuration, request) -> the solution that erasing the concepts of `request` alone,
            in one request, would have made, from what the solutions stored. With one solution it restores concepts;
            with several it composes. Raises `CannotCombine` where that does not suffice. None: it never does.
        goals: The goals that it can reach.
        uses_guides: Whether a concept's guide changes the result.
        uses_preserve: Whether the list of preserved prompts changes the result.
        needs: The tools that `erase` receives by name, since no method imports the packages that make or judge images.
        families: The families of models that it supports; None supports every one.
    """

    name: str
    summary: str
    paper: str
    repository: str
    edit: KindOfEdit
    config: type[Settings]
    erase: Callable[..., Solution]
    combine: Callable[[Sequence[Solution], Request], Solution] | None = None
    goals: tuple[Goal, ...] = ("erase",)
    uses_guides: bool = True
    uses_preserve: bool = True
    needs: tuple[Tool, ...] = ()
    families: tuple[str, ...] | None = None

    @property
    def trained(self) -> bool:
        """Whether it trains in many steps, so that it can be interrupted and resumed."""
        return "context" in self.needs
