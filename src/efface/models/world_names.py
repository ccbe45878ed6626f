"""Names that a model's closed world does not have, with the nearest ones that it has."""

from __future__ import annotations

import re
from difflib import get_close_matches

from efface.models.builtin import World
from efface.request.names import name_key, plain_words

_NEAREST = 3


def unknown_names(world: World, texts: list[str]) -> dict[str, list[str]]:
    """The texts of which the world knows no word, each with the names that are spelt most like it.

    A prompt such as "a picture of a cat" is known by a name in it.

    Args:
        world: The world.
        texts: Names or prompts.
    """
    names = _names(world)
    return {text: nearest_names(text, names) for text in texts if text.strip() and not _is_known(text, names)}


def unknown_concepts(world: World, concepts: list[str], styles: bool = False) -> dict[str, list[str]]:
    """The concepts that are no name of the world, each with the names that are spelt most like it.

    Args:
        world: The world.
        concepts: Names of concepts; the words of the world's templates ("a picture of", "style") may be around them.
        styles: Whether the concepts are styles, to which only names of styles are near.
    """
    names = _names(world)
    offered = _style_names(world) if styles else names
    fillers = {word for template in world.templates for word in re.findall(r"\w+", template.casefold())}
    keys = {name_key(name) for name in names} | {name_key(world.memorised)}
    unknown: dict[str, list[str]] = {}
    for concept in concepts:
        rest = " ".join(word for word in plain_words(concept).split() if word not in fillers)
        if not {name_key(concept), name_key(rest)} & keys:
            unknown[concept] = nearest_names(concept, offered)
    return unknown


def nearest_in_world(world: World, text: str) -> list[str]:
    """The names of a world that are spelt most like a text; empty if none is near."""
    return nearest_names(text, _names(world))


def nearest_names(text: str, names: list[str]) -> list[str]:
    """The names that are spelt most like a text; empty if none is near.

    Args:
        text: The text.
        names: The names.
    """
    return get_close_matches(plain_words(text), names, n=_NEAREST, cutoff=0.5)


def _names(world: World) -> list[str]:
    objects = (name for thing in world.objects for name in (*thing.words, *thing.held_out, thing.theme))
    return list(dict.fromkeys(name for name in (*objects, *_style_names(world)) if name))


def _style_names(world: World) -> list[str]:
    return list(dict.fromkeys(name for style in world.styles for name in (style.name, *style.words)))


def _is_known(text: str, names: list[str]) -> bool:
    words, key = re.sub(r"[^\w\s]", " ", f" {plain_words(text)} "), name_key(text)
    return any(f" {plain_words(name)} " in words or name_key(name) == key for name in names)
