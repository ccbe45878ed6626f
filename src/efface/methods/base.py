"""The contract of a method, and the protocols of the tools that a method receives by name.

A method names its sources and its settings, has a function that solves a request, and may have a function that combines
solutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from efface.edits.kinds import Edit, KindOfEdit
    from efface.edits.solution import Solution
    from efface.request.record import Goal, Request
    from efface.settings import Scalar, Settings

Tool = Literal[
    "context",
    "copies",
    "latents",
    "measure",
    "pictures",
    "progress",
    "read_eraser",
    "recognised",
    "write_snapshot",
]


class Latents(Protocol):
    """Samples latents with the unedited model."""

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
        """Sample the latents of one prompt.

        Args:
            prompt: The prompt.
            seeds: The seed of each sample.
            steps: The number of sampling steps.
            guidance: The guidance scale.
            sampler: The name of the sampler.
            clip_skip: The number of last layers of the text encoder to skip.

        Returns:
            The latents, one per seed, (n, C, h, w), float32.
        """
        ...


class Pictures(Protocol):
    """Generates images with the unedited model and caches them, or reads the images of a folder.

    An image is an array (H, W, 3).
    """

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
        folder: Path | None = None,
    ) -> Sequence[NDArray[np.uint8]]:
        """Generate one image for each prompt and its seed.

        Args:
            prompts: The prompts.
            seeds: The seed of each prompt.
            steps: The number of sampling steps.
            guidance: The guidance scale.
            sampler: The name of the sampler.
            negative: The negative prompt.
            clip_skip: The number of last layers of the text encoder to skip.
            what: The name of the task for the progress callback.
            folder: Where the images stay, as a folder of images with metadata, and are found by a later call.

        Returns:
            The images, each (H, W, 3).
        """
        ...

    def read(self, folder: Path) -> Iterable[tuple[str, NDArray[np.uint8]]]:
        """The images of a folder, (H, W, 3) each, with their prompts; the prompt is "" where it is unknown."""
        ...

    def folder_of(self, concept: str, folder: Path) -> Path:
        """The folder with the images of a concept: a folder below `folder`, or `folder` itself if it has images.

        Raises:
            BadFile: There is no such folder.
        """
        ...


class CopyDetector(Protocol):
    """Detects copies of an image."""

    def __call__(self, pictures: Sequence[NDArray[np.uint8]], original: Path) -> Sequence[bool]:
        """Whether each image (H, W, 3), all of one size, is a copy of the image in the file `original`."""
        ...


class Measure(Protocol):
    """Generates images with an edited model and measures which attributes they show."""

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
        """Measure the shares of attributes among the images of one prompt.

        Args:
            prompt: The prompt.
            attributes: The attributes. Each image counts for the attribute that it shows most clearly.
            edits: The edits to apply to the model.
            seeds: The seed of each image.
            steps: The number of sampling steps.
            guidance: The guidance scale.
            clip_skip: The number of last layers of the text encoder to skip.

        Returns:
            The share of each attribute, in the order of `attributes`.
        """
        ...


class Recognised(Protocol):
    """Generates images with an edited model and asks a judge whether they show a concept."""

    def __call__(
        self,
        concept: str,
        prompts: Sequence[str],
        edits: Sequence[Edit],
        *,
        seeds: Sequence[int],
        clip_skip: int | None = None,
    ) -> float:
        """The share of images, one per prompt and seed with the model's default sampling, that show the concept.

        Args:
            concept: The concept that the judge looks for.
            prompts: The prompts.
            edits: The edits to apply to the model.
            seeds: The seeds of the images of each prompt.
            clip_skip: The number of last layers of the text encoder to skip.

        Raises:
            BadInput: The judge cannot recognise the concept.
        """
        ...


class EraserReader(Protocol):
    """Reads existing erasers."""

    def __call__(self, path: str) -> Sequence[Edit]:
        """The edits of an eraser's file, or of one that `efface import` reads, after checking that it is of the model.

        Raises:
            BadFile: The file is no eraser and no file that can be imported.
            WrongBase: The eraser was made for another model.
        """
        ...


class SnapshotWriter(Protocol):
    """Writes erasers during a training."""

    def __call__(self, solution: Solution, path: Path) -> None:
        """Write the eraser that a solution makes at this step; an existing file is replaced."""
        ...


class CannotCombine(Exception):  # noqa: N818 - an answer, not an error
    """Solutions cannot be combined into one.

    Args:
        reason: Why, as a clause that completes "cannot be solved together, as ...".
        sum_is_exact: Whether the sum of the edits equals the result of one request for all concepts, so that no
            warning is needed.
    """

    def __init__(self, reason: str, sum_is_exact: bool = False) -> None:
        super().__init__(reason)
        self.sum_is_exact = sum_is_exact


@dataclass(frozen=True)
class Method:
    """A method of erasing concepts.

    Attributes:
        name: The name on the command line.
        summary: One line for `efface methods`.
        paper: The link to the paper.
        repository: The link to the reference implementation.
        edit: The kind of edit that the method makes.
        config: The class of its settings, with the published defaults.
        erase: (model, request, validated settings, **tools) -> the solution for the text stream that the model reads.
        combine: (solutions of one configuration, request) -> the solution that one request for exactly the concepts of
            `request` would have given, computed from the inputs that the solutions store. With one solution it restores
            concepts; with several it composes. It raises `CannotCombine` if the stored inputs do not suffice. None if
            the method cannot combine solutions at all.
        goals: The goals that the method supports.
        uses_guides: Whether a concept's guide changes the result.
        uses_preserve: Whether the list of preserved prompts changes the result.
        needs: The tools that `erase` receives by name. A method does not import the packages that generate or judge
            images.
        families: The families of models that the method supports; None for all families.
        after: How the method erases concepts after other erasers (`efface.eraser.continual`): "edited", on the model
            that they have edited; "separate", on the base, if they are of the same method, because it protects their
            concepts exactly; None if it cannot.
        published: Values of the published code that differ from the defaults, for `preset=published`.
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
    after: Literal["edited", "separate"] | None = "edited"
    published: Mapping[str, Scalar] = field(default_factory=dict[str, "Scalar"])

    @property
    def trained(self) -> bool:
        """Whether the method trains in many steps, so that a training can be interrupted and resumed."""
        return "context" in self.needs
