"""What a method is: a name, its sources, its settings, and a function from a request to an eraser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from efface.eraser import Eraser
    from efface.request import Request
    from efface.settings import Settings

KindOfEdit = Literal["text", "weight", "guard"]


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
        erase: (model, request, validated settings) -> eraser; where `trained`, with an `efface.training.work.Work` as
            fourth argument.
        only: (eraser, concept names) -> the eraser of those concepts alone, as if the others had never been erased;
            None where concepts were erased jointly and cannot be told apart.
        together: (erasers of one configuration, the request of all their concepts) -> the eraser that this request
            would have made, from what they stored; raises `methods.together.Apart` where that does not suffice. None
            where it never does.
        trained: whether it takes many steps, so that it reports progress and can be taken up again.
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
    trained: bool = False
