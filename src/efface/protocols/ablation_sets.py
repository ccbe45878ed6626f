"""Which prompts stand for an ablated concept, its anchor and its hard negatives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from efface.errors import BadFile, BadInput
from efface.judges.shared.questions import plain_words
from efface.models.emoji import catalogue
from efface.protocols.plans import Asked
from efface.protocols.world import emoji_canvas, spellings
from efface.request.record import Concept
from efface.settings import Settings

_OBJECT = ("a {}", "a photo of a {}", "a picture of a {}", "an image of a {}", "a painting of a {}")
_STYLE = ("a house in {} style", "a car in {} style", "a tree in {} style", "a cat in {} style", "a church in {} style")


@dataclass(frozen=True)
class Named:
    """A concept and the prompts for it."""

    name: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Sets:
    """What is compared; `is_style` says whether the names are styles'."""

    target: Named
    anchor: Named
    hard_negatives: tuple[Named, ...]
    is_style: bool


class Entry(Settings):
    """One concept of eval.json."""

    target: str
    anchor: str
    hard_negative: tuple[str, ...] = ()


_Kind = Literal["style", "object"]
_FILE = TypeAdapter(dict[_Kind, dict[str, Entry]])


def sets_for(asked: Asked, concept: Concept, erased: Sequence[str] = ()) -> Sets:
    """A concept's sets; of the hard negatives, those that the eraser leaves.

    Args:
        asked: For what.
        concept: Whose.
        erased: The names of all that the eraser erases.

    Raises:
        BadInput: There is no anchor to compare with, it is erased too, or the data has no such concept.
    """
    data = asked.inputs.data
    sets = _published(data, concept) if data is not None else _own(asked, concept)
    anchor = sets.anchor.name
    if any(name != concept.name and _same(asked, name, anchor) for name in erased):
        mend = "name another in a request, --request FILE.yaml" if data is None else f"change it in {data}"
        raise BadInput(f"The anchor of '{concept.name}' is '{anchor}', which is erased too; {mend}.")
    left = (named for named in sets.hard_negatives if not any(_same(asked, name, named.name) for name in erased))
    return replace(sets, hard_negatives=tuple(left))


def _same(asked: Asked, one: str, other: str) -> bool:
    """Whether two names mean one thing: by their words, to the judge, or on the embedded model."""
    if spellings(one) & spellings(other) or asked.judge.same(one, other):
        return True
    meaning = emoji_canvas(catalogue()).meaning
    return asked.is_emoji and meaning(one) is not None and meaning(one) == meaning(other)


def _own(asked: Asked, concept: Concept) -> Sets:
    """From the request, or the embedded model's catalogue."""
    anchor, near, is_style = _around(concept, asked.is_emoji)
    if not anchor:
        raise BadInput(
            f"'{concept.name}' has no anchor: name one when erasing (--to), or give the reference's assets with --data."
        )
    templates = _STYLE if is_style else _OBJECT
    others = [name for name in near if plain_words(name) not in (plain_words(concept.name), plain_words(anchor))]
    target, guide, *rest = (
        Named(name, tuple(template.format(name) for template in templates)) for name in (concept.name, anchor, *others)
    )
    return Sets(target, guide, tuple(rest), is_style)


def _around(concept: Concept, is_emoji: bool) -> tuple[str, tuple[str, ...], bool]:
    """Anchor, hard negatives and whether it is a style: what the request says, else what the catalogue does."""
    world = catalogue()
    domain, label = (emoji_canvas(world).meaning(concept.name) if is_emoji else None) or (None, "")
    guide, near = concept.guide or "", concept.adjacent
    if domain == "object":
        thing = next(thing for thing in world.objects if thing.name == label)
        guide, near = guide or thing.guide, near or thing.near
    elif domain == "style":
        look = next(style for style in world.styles if style.name == label)
        guide, near = guide or look.guide, near or tuple(s.name for s in world.styles if s.name != label)
    return guide, near, domain == "style" or (domain is None and concept.kind == "style")


def _published(data: Path, concept: Concept) -> Sets:
    """From eval.json and the folder eval_prompts beside it."""
    path = data / "eval.json" if data.is_dir() else data
    try:
        content = _FILE.validate_python(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, ValidationError) as error:
        raise BadFile(f"Cannot read the sets from {path}: {' '.join(str(error).split())[:200]}.") from error
    for kind, entries in content.items():
        for name, entry in entries.items():
            if plain_words(concept.name) in (plain_words(name), plain_words(entry.target)):
                return _sets(path.parent / "eval_prompts", entry, kind == "style")
    known = ", ".join(name for entries in content.values() for name in entries)
    raise BadInput(f"{path} has no concept '{concept.name}'; it has: {known}.")


def _sets(folder: Path, entry: Entry, is_style: bool) -> Sets:
    names = (entry.target, entry.anchor, *entry.hard_negative)
    if is_style:
        found = [Named(name, _prompts(folder, (name.replace(" ", "_"), name.split()[0]))) for name in names]
    else:
        general = _prompts(folder, (entry.anchor.replace(" ", "_"),))
        found = [Named(name, tuple(p.replace(entry.anchor, name) for p in general)) for name in names]
    return Sets(found[0], found[1], tuple(found[2:]), is_style)


def _prompts(folder: Path, stems: Sequence[str]) -> tuple[str, ...]:
    """The lines of the first of these files that there is."""
    for stem in stems:
        path = folder / f"{stem}_eval.txt"
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            try:
                lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                raise BadFile(f"Cannot read prompts from {path}: {error}.") from error
            if any(lines):
                return tuple(filter(None, lines))
    raise BadFile(f"{folder} has no prompts for '{stems[0]}'; it needs {stems[0]}_eval.txt, one prompt a line.")
