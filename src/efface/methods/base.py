"""What a method is: a name, its sources, its settings, and a function from a request to an eraser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from efface.eraser.eraser import Eraser
    from efface.request.record import Request
    from efface.settings import Settings

KindOfEdit = Literal["text", "weight", "guard"]
Tool = Literal["copies", "latents", "measure", "pictures", "progress", "work"]


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
        eraser: Eraser | None,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        clip_skip: int | None = None,
    ) -> Sequence[float]:
        """Each attribute's share of one prompt's images under an eraser, by which attribute each shows most."""
        ...


@dataclass(frozen=True)
class Method:
    """One way to erase.

    Attributes:
        name: what it is called on the command line.
        summary: one line for `efface methods`.
        paper: link to the paper.
        repository: link to the reference implementation.
        edit: the kind of edit it makes.
        config: its settings, with the published defaults.
        erase: (model, request, validated settings) -> eraser of the text stream that the model reads; what it needs
            besides, it is given by name.
        only: (eraser, concept names) -> the eraser of those concepts alone, as if the others had never been erased;
            None where concepts were erased jointly and cannot be told apart.
        together: (erasers of one configuration, the request of all their concepts) -> the eraser that this request
            would have made, from what they stored; raises `methods.together.Apart` where that does not suffice. None
            where it never does.
        needs: what `erase` is given of the stages to its right, which no method imports: `latents`, `pictures`,
            `measure` and `copies` (None where nobody judges), whom to tell its `progress` (None where nobody listens),
            and for methods that train the `work` around them (`efface.progress`).
    """

    name: str
    summary: str
    paper: str
    repository: str
    edit: KindOfEdit
    config: type[Settings]
    erase: Callable[..., Eraser]
    only: Callable[[Eraser, Sequence[str]], Eraser] | None = None
    together: Callable[[Sequence[Eraser], Request], Eraser] | None = None
    needs: tuple[Tool, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether it takes many steps, so that it can be taken up again."""
        return "work" in self.needs
