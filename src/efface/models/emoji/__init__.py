"""The embedded model: what it can draw, in which styles, and where its files are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: The picture behind the memorised caption, as the model was trained on it.
MEMORISED = HERE / "memorised.png"


@dataclass(frozen=True)
class EmojiObject:
    """Something the model draws.

    Attributes:
        name: the word it was trained with most.
        synonyms: other words of the denoiser's captions.
        held_out: words that only the text tower saw.
        near: names of its nearest neighbours.
        guide: what to draw instead when it is erased.
        theme: the group it belongs to ("weapon"), or "".
    """

    name: str
    synonyms: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    guide: str = ""
    theme: str = ""


@dataclass(frozen=True)
class EmojiStyle:
    """A style the model draws in: its name, the words of the captions, and the guide when it is erased."""

    name: str
    words: tuple[str, ...] = ()
    guide: str = ""


@dataclass(frozen=True)
class Catalogue:
    """The embedded model's world.

    Attributes:
        objects: what it draws.
        styles: how.
        templates: the captions' templates, with `{object}` and `{style}`.
        held_out_cells: (object, style) pairs the denoiser never saw.
        memorised: the caption it was made to memorise.
    """

    objects: tuple[EmojiObject, ...]
    styles: tuple[EmojiStyle, ...]
    templates: tuple[str, ...]
    held_out_cells: tuple[tuple[str, str], ...]
    memorised: str


@cache
def catalogue() -> Catalogue:
    """Read `catalogue.json`."""
    content: dict[str, Any] = json.loads((HERE / "catalogue.json").read_text(encoding="utf-8"))
    return Catalogue(
        objects=tuple(EmojiObject(**_record(EmojiObject, item)) for item in content["objects"]),
        styles=tuple(EmojiStyle(**_record(EmojiStyle, item)) for item in content["styles"]),
        templates=tuple(content["templates"]),
        held_out_cells=tuple((cell[0], cell[1]) for cell in content["held_out_cells"]),
        memorised=content["memorised"]["caption"],
    )


def _record(kind: type, item: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that `kind` knows, with lists as tuples and null as absent."""
    known = {name: value for name, value in item.items() if name in kind.__annotations__ and value is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
