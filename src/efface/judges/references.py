"""What judges of copies share: the pictures that images are compared with, each by what it is asked for as."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Generic, TypeVar

from typing_extensions import Self

from efface.errors import BadFile, BadInput
from efface.generation.folder import read_folder, read_picture
from efface.judges.base import Pixels
from efface.judges.questions import is_path

Reference = TypeVar("Reference")


class Compared(ABC, Generic[Reference]):
    """Knows pictures by their path, or if it was given some, those alone.

    Args:
        references: Pictures (H, W, 3) by what they are asked for as; by default questions are paths.
    """

    name: str

    def __init__(self, references: Mapping[str, Iterable[Pixels]] | None) -> None:
        self._takes_paths = references is None
        self._references = {concept: self._of(pictures) for concept, pictures in (references or {}).items()}

    @abstractmethod
    def _of(self, pictures: Iterable[Pixels]) -> Reference:
        """What is kept of the pictures of one question."""

    def knowing(self, references: Mapping[str, Sequence[Pixels]]) -> Self:
        judge = copy(self)
        judge._takes_paths = False
        judge._references = {**self._references, **{c: self._of(pictures) for c, pictures in references.items()}}
        return judge

    def knows(self, concept: str) -> bool:
        return concept in self._references or (self._takes_paths and is_path(concept))

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()

    def same(self, one: str, other: str) -> bool:
        return one == other

    def _reference(self, concept: str) -> Reference:
        """What is kept of what a question names; for the next batch too."""
        if concept not in self._references:
            if not self.knows(concept):
                raise BadInput(f"The judge '{self.name}' cannot recognise '{concept}': it is no picture and no folder.")
            self._references[concept] = self._of(read_references(Path(concept)))
        return self._references[concept]


def read_references(path: Path) -> list[Pixels]:
    """A picture, or those of a folder.

    Raises:
        BadFile: They cannot be read.
    """
    try:
        return [image.pixels() for image in read_folder(path)] if path.is_dir() else [read_picture(path)]
    except OSError as error:
        raise BadFile(f"Cannot read the reference {path}: {error}.") from error
