"""The classes of training images from a CSV: a folder and prompts for each.

The column `concept` (or `concept_name`, `class`, `artist`) names the class of a row. The column `prompt`, or the
columns `direct_prompt_1` and so on of the U&ME challenge, has its prompts; an empty cell is the empty prompt. Without
such a column, the prompt of a class is its name, as in SepCE's script.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from efface.errors import BadFile, BadInput
from efface.generation.dataset import read_concept_rows
from efface.generation.folder import folder_name
from efface.generation.jobs import Job


@dataclass(frozen=True)
class ImageClass:
    """One class of images.

    Attributes:
        name: Its name.
        folder: The name of its folder.
        prompts: Its prompts, at least one.
    """

    name: str
    folder: str
    prompts: tuple[str, ...]

    def jobs(self, n: int, seed: int) -> list[Job]:
        """`n` jobs: image i has seed `seed + i`, and the class's prompts in turn.

        Args:
            n: The number of images.
            seed: The seed of the first image.

        Raises:
            BadInput: `n` is less than 1.
        """
        if n < 1:
            raise BadInput(f"The number of images per class is {n}; it must be at least 1.")
        return [Job(self.prompts[i % len(self.prompts)], seed + i, concept=self.name) for i in range(n)]


def read_classes(path: Path, numbered: bool = False, concept_column: str | None = None) -> list[ImageClass]:
    """Read the classes of a file, in its order.

    Args:
        path: The CSV.
        numbered: Whether the folders are named 0, 1, 2 and so on, and not after the classes.
        concept_column: The column of classes. By default, it is found by its name or its words.

    Raises:
        BadFile: The file cannot be read, names no class, or names two classes that would share a folder.
    """
    column, table = read_concept_rows(path, concept_column)
    prompts: dict[str, dict[str, None]] = {}
    for row in (row.values for row in table.rows):
        if name := row.get(column):
            direct = [text for key, text in row.items() if key.startswith("direct_prompt") and text] or [name]
            prompts.setdefault(name, {}).update(dict.fromkeys([row["prompt"]] if "prompt" in row else direct))
    if not prompts:
        raise BadFile(f"{path} names no class; write one per row.")
    classes = [
        ImageClass(name, str(index) if numbered else folder_name(name), tuple(of_class))
        for index, (name, of_class) in enumerate(prompts.items())
    ]
    owners: dict[str, str] = {}
    for one in classes:
        other = owners.setdefault(one.folder.casefold(), one.name)
        if other != one.name:
            raise BadFile(f"The classes '{other}' and '{one.name}' of {path} would share a folder; rename one.")
    return classes
