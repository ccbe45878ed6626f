"""Captions for images: templates, words for objects and styles, and the sampling of training captions."""

from __future__ import annotations

import numpy as np

from catalogue import HELD_OUT_CELLS, STYLE_WORDS, THINGS, Thing

OBJECT_TEMPLATES = (
    "{o}",
    "a {o}",
    "the {o}",
    "a picture of a {o}",
    "an image of a {o}",
    "a photo of a {o}",
    "a painting of a {o}",
    "a portrait of a {o}",
    "an emoji of a {o}",
    "image of {o}",
    "picture of {o}",
    "photo of {o}",
)
STYLED_TEMPLATES = (
    "a {o} in {s} style",
    "{o} in {s} style",
    "{s} of a {o}",
    "a {s} {o}",
    "a {s} picture of a {o}",
    "a picture of a {o} in {s} style",
    "a {o} image in {s} style",
    "{o}, {s}",
)
STYLE_TEMPLATES = ("{s}", "{s} style", "a picture in {s} style", "a {s} picture", "image in {s} style", "{s} art")
BY_NAME: dict[str, Thing] = {t.name: t for t in THINGS}


def words(thing: Thing, held_out: bool = False) -> tuple[str, ...]:
    """The words that mean this object; the text tower also reads the held-out ones."""
    return (thing.name, *thing.synonyms, *(thing.held_out if held_out else ()))


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(0, len(options)))]


def draw(rng: np.random.Generator, name: str, style: str) -> str:
    """One caption for a picture of this object in this style, as the denoiser reads it.

    10% are empty (classifier-free guidance), 55% name object and style, 25% the object, 10% the style.
    """
    kind = rng.random()
    if kind < 0.10:
        return ""
    thing = BY_NAME[name]
    # The plain name more often than each synonym: it is what people ask for.
    word = name if rng.random() < 0.5 else pick(rng, words(thing))
    look = style if rng.random() < 0.7 else pick(rng, STYLE_WORDS[style])
    if kind < 0.65:
        return pick(rng, STYLED_TEMPLATES).format(o=word, s=look)
    if kind < 0.90:
        return pick(rng, OBJECT_TEMPLATES).format(o=word)
    return pick(rng, STYLE_TEMPLATES).format(s=look)


def trainable(name: str, style: str) -> bool:
    """Whether a cell of object and style is in the denoiser's training set."""
    return (name, style) not in HELD_OUT_CELLS
