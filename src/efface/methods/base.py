"""What a method is: a name, its sources, its settings, and a function from a request to an eraser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from efface.eraser import Eraser
    from efface.models.base import Model
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
        erase: (model, request, validated settings) -> eraser of the text stream that the model reads.
        only: (eraser, concept names) -> the eraser of those concepts alone, as if the others had never been erased;
            None where concepts were erased jointly and cannot be told apart.
        together: (erasers of one configuration, the request of all their concepts) -> the eraser that this request
            would have made, from what they stored; raises `methods.together.Apart` where that does not suffice. None
            where it never does.
        certifies: its erasers carry a certificate unasked.
    """

    name: str
    summary: str
    paper: str
    repository: str
    edit: KindOfEdit
    config: type[Settings]
    erase: Callable[[Model, Request, Any], Eraser]
    only: Callable[[Eraser, Sequence[str]], Eraser] | None = None
    together: Callable[[Sequence[Eraser], Request], Eraser] | None = None
    certifies: bool = False
