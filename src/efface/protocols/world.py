"""A grid of objects and styles, every object in every style: a model's closed world, or that of UnlearnCanvas."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from efface.errors import BadFile, BadInput
from efface.image_files import is_picture
from efface.models.builtin import World
from efface.request.names import name_key, plain_words

Domain = Literal["object", "style"]
DOMAINS: tuple[Domain, Domain] = ("object", "style")


@dataclass(frozen=True)
class ObjectStyleGrid:
    """Objects and styles by their labels, and the prompt of each pair.

    Attributes:
        objects: Labels of the objects.
        styles: Labels of the styles.
        template: The prompt of a cell, with `{object}` and `{style}`.
        pictures: Of each cell (object, style), pictures in the order of their numbers; empty for a model's world.
        left_out: Cells that are not generated.
        words: Other words for labels, with the label.
    """

    objects: tuple[str, ...]
    styles: tuple[str, ...]
    template: str
    pictures: Mapping[tuple[str, str], tuple[Path, ...]] = field(
        default_factory=dict[tuple[str, str], tuple[Path, ...]]
    )
    left_out: Collection[tuple[str, str]] = ()
    words: Mapping[str, str] = field(default_factory=dict[str, str])

    def cells(self) -> list[tuple[str, str]]:
        """All (object, style), without those left out."""
        return [
            (thing, style) for style in self.styles for thing in self.objects if (thing, style) not in self.left_out
        ]

    def only(self, names: Sequence[str]) -> ObjectStyleGrid:
        """The grid of these objects and styles alone; all of a domain if none of the names belongs to it.

        Raises:
            BadInput: A name is neither an object nor a style.
        """
        meanings = [self.find(name) for name in names]
        things, styles = (tuple(label for kind, label in meanings if kind == domain) for domain in DOMAINS)
        return replace(self, objects=things or self.objects, styles=styles or self.styles)

    def prompt(self, thing: str, style: str) -> str:
        """The prompt of a cell."""
        return self.template.replace("{object}", thing).replace("{style}", style).replace("_", " ")

    def meaning(self, name: str) -> tuple[Domain, str] | None:
        """The object or style that a concept means ("Van Gogh style" means "Van Gogh"); None if it is neither."""
        names = spellings(name)
        names |= {name_key(self.words[word]) for word in names & self.words.keys()}
        for domain, labels in zip(DOMAINS, (self.objects, self.styles), strict=True):
            for label in labels:
                if name_key(label) in names:
                    return domain, label
        return None

    def find(self, name: str) -> tuple[Domain, str]:
        """The object or style that a concept means.

        Raises:
            BadInput: It is neither.
        """
        if meaning := self.meaning(name):
            return meaning
        raise BadInput(
            f"'{name}' is neither an object nor a style of this world; the objects are {', '.join(self.objects)}, "
            f"the styles {', '.join(self.styles)}."
        )


def spellings(name: str) -> set[str]:
    """The key of a concept's name, and the same without "style" at the end."""
    return {name_key(name), name_key(plain_words(name).removesuffix(" style"))}


def grid_of(world: World) -> ObjectStyleGrid:
    """The grid of a model's world, without the cells that the denoiser was not trained on."""
    words = {name_key(w): thing.name for thing in world.objects for w in (*thing.synonyms, *thing.held_out)}
    words |= {name_key(w): style.name for style in world.styles for w in style.words}
    return ObjectStyleGrid(
        tuple(thing.name for thing in world.objects),
        tuple(style.name for style in world.styles),
        "a {object} image in {style} style",
        left_out=frozenset(world.held_out_cells),
        words=words,
    )


def read_grid(folder: Path) -> ObjectStyleGrid:
    """The grid of a folder with the published data set's layout, `STYLE/OBJECT/NUMBER.jpg`.

    Raises:
        BadInput: It has another layout.
    """
    if not folder.is_dir():
        raise BadFile(f"Cannot read pictures from {folder}: it is not a folder.")
    pictures: dict[tuple[str, str], list[Path]] = {}
    for path in folder.glob("*/*/*"):
        if is_picture(path):
            style, thing = path.relative_to(folder).parts[:2]
            pictures.setdefault((thing, style), []).append(path)
    if not pictures:
        raise BadInput(f"{folder} has no pictures in folders STYLE/OBJECT; give the data set's own folder.")
    return ObjectStyleGrid(
        tuple(sorted({thing for thing, _ in pictures})),
        tuple(sorted({style for _, style in pictures})),
        "A {object} image in {style} style.",
        {cell: tuple(sorted(paths, key=_number)) for cell, paths in pictures.items()},
    )


def _number(path: Path) -> tuple[int, str]:
    """The order of `1.jpg`, `2.jpg`, ..., `10.jpg`."""
    return (int(path.stem), "") if path.stem.isdigit() else (2**31, path.stem)
