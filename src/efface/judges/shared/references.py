"""Base class for judges of copies, which compare images with reference pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Generic, TypeVar

from typing_extensions import Self

from efface.errors import BadFile, BadInput
from efface.generation.folder import read_folder
from efface.image_files import read_picture
from efface.judges.base import Pixels
from efface.judges.shared.questions import is_path

Reference = TypeVar("Reference")


class ReferenceJudgeBase(ABC, Generic[Reference]):
    """Answers questions that name pictures: by their paths, or if references are passed, by the names of these only.

    Args:
        references: Pictures of shape (H, W, 3) by question. By default a question is the path of a picture or folder.
    """

    name: str

    def __init__(self, references: Mapping[str, Iterable[Pixels]] | None) -> None:
        self._takes_paths = references is None
        self._references = {concept: self._prepare(pictures) for concept, pictures in (references or {}).items()}

    @abstractmethod
    def _prepare(self, pictures: Iterable[Pixels]) -> Reference:
        """Prepare the pictures of one question for comparisons."""

    def with_references(self, references: Mapping[str, Sequence[Pixels]]) -> Self:
        judge = copy(self)
        judge._takes_paths = False
        judge._references = {**self._references, **{c: self._prepare(pictures) for c, pictures in references.items()}}
        return judge

    def knows(self, concept: str) -> bool:
        return concept in self._references or (self._takes_paths and is_path(concept))

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()

    def same(self, one: str, other: str) -> bool:
        return one == other

    def _reference(self, concept: str) -> Reference:
        """The prepared pictures of a question, cached for the next batch."""
        if concept not in self._references:
            if not self.knows(concept):
                raise BadInput(f"The judge '{self.name}' cannot recognise '{concept}': it is no picture and no folder.")
            self._references[concept] = self._prepare(read_references(Path(concept)))
        return self._references[concept]


def read_references(path: Path) -> list[Pixels]:
    """Read a picture, or all pictures of a folder, each of shape (H, W, 3).

    Raises:
        BadFile: They cannot be read.
    """
    try:
        return [image.pixels() for image in read_folder(path)] if path.is_dir() else [read_picture(path)]
    except OSError as error:
        raise BadFile(f"Cannot read the reference {path}: {error}.") from error
