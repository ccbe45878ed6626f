"""A world of objects drawn in styles, every one in every other: the embedded model's, or UnlearnCanvas'."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from efface.errors import BadFile, BadInput
from efface.generation.folder import SUFFIXES
from efface.judges.shared.questions import plain_words
from efface.models.builtin import World

Domain = Literal["object", "style"]
DOMAINS: tuple[Domain, Domain] = ("object", "style")


@dataclass(frozen=True)
class Canvas:
    """The world.

    Attributes:
        objects: Their labels.
        styles: Their labels.
        template: Of prompts, with `{object}` and `{style}`.
        pictures: Of cells (object, style), in order of number; of the embedded model none.
        left_out: Cells that are not drawn.
        words: Other words for labels, to the label.
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
        """(object, style), without those left out."""
        return [
            (thing, style) for style in self.styles for thing in self.objects if (thing, style) not in self.left_out
        ]

    def among(self, names: Sequence[str]) -> Canvas:
        """These objects and styles alone; of a domain that none of them is of, all.

        Raises:
            BadInput: One of them is neither.
        """
        kept = [self.find(name) for name in names]
        things, styles = (tuple(label for own, label in kept if own == domain) for domain in DOMAINS)
        return replace(self, objects=things or self.objects, styles=styles or self.styles)

    def prompt(self, thing: str, style: str) -> str:
        """A cell's prompt, in words."""
        return self.template.replace("{object}", thing).replace("{style}", style).replace("_", " ")

    def meaning(self, name: str) -> tuple[Domain, str] | None:
        """The object or style that a concept means ("Van Gogh style" is the style "Van Gogh"), if it is one."""
        said = spellings(name)
        said |= {plain_words(self.words[word]) for word in said & self.words.keys()}
        for domain, labels in zip(DOMAINS, (self.objects, self.styles), strict=True):
            for label in labels:
                if plain_words(label) in said:
                    return domain, label
        return None

    def find(self, name: str) -> tuple[Domain, str]:
        """The same of a concept that must be one.

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
    """A concept's plain words, and the same without "style" behind them."""
    return {plain_words(name), plain_words(name).removesuffix(" style")}


def emoji_canvas(catalogue: World) -> Canvas:
    """The embedded model's world; object-style pairs that the denoiser never trained on are left out."""
    words = {plain_words(w): thing.name for thing in catalogue.objects for w in (*thing.synonyms, *thing.held_out)}
    words |= {plain_words(w): style.name for style in catalogue.styles for w in style.words}
    return Canvas(
        tuple(thing.name for thing in catalogue.objects),
        tuple(style.name for style in catalogue.styles),
        "a {object} image in {style} style",
        left_out=frozenset(catalogue.held_out_cells),
        words=words,
    )


def read_canvas(folder: Path) -> Canvas:
    """The published data set's folder, `STYLE/OBJECT/NUMBER.jpg`, or any other laid out so.

    Raises:
        BadInput: It is not laid out so.
    """
    if not folder.is_dir():
        raise BadFile(f"Cannot read pictures from {folder}: it is not a folder.")
    pictures: dict[tuple[str, str], list[Path]] = {}
    for path in folder.glob("*/*/*"):
        if path.suffix.lower() in SUFFIXES:
            style, thing = path.relative_to(folder).parts[:2]
            pictures.setdefault((thing, style), []).append(path)
    if not pictures:
        raise BadInput(f"{folder} has no pictures in folders STYLE/OBJECT; give the data set's own folder.")
    return Canvas(
        tuple(sorted({thing for thing, _ in pictures})),
        tuple(sorted({style for _, style in pictures})),
        "A {object} image in {style} style.",
        {cell: tuple(sorted(paths, key=_number)) for cell, paths in pictures.items()},
    )


def _number(path: Path) -> tuple[int, str]:
    """The order of `1.jpg`, `2.jpg`, ..., `10.jpg`."""
    return (int(path.stem), "") if path.stem.isdigit() else (2**31, path.stem)
