"""The sentences in which the null-space edit replaces a concept, each beside the same sentence with the guide."""

from __future__ import annotations

from typing import Final

from efface.methods.closed_form.tokens import prompt_pairs
from efface.request.record import Concept

OBJECT_SENTENCES: Final = (
    "a {}",
    "a photo of a {}",
    "{} in pencil style",
    "the {}",
    "a picture of a {}",
    "a watercolor {}",
    "a {} in cartoon style",
    "image of {}",
    "a painting of a {}",
    "a sketch of a {}",
    "an oil painting of a {}",
    "{}, black and white",
    "a portrait of a {}",
    "a colorful picture of a {}",
    "a {} image in vintage style",
)
STYLE_SENTENCES: Final = (
    "a cat in {} style",
    "a {} picture of a house",
    "{} of a flower",
    "a picture of a car in {} style",
    "a {} bird",
    "a dog, {}",
    "{} style",
    "an apple in {} style",
    "a {} picture",
    "a tree image in {} style",
    "{} of a boat",
    "a picture in {} style",
    "a {} horse",
    "a house, {}",
    "a {} picture of a woman",
)
_ALIAS_SENTENCES: Final = ("{}", "a picture of a {}")


def sentence_pairs(concept: Concept) -> list[tuple[str, str]]:
    """The sentences of a concept, the bare concept first, each with the sentence of its guide.

    An empty guide remains empty in every sentence, and the caption of a memorised image is no word of a sentence.
    """
    ((name, guide),) = prompt_pairs(concept, False)
    templates = {"style": STYLE_SENTENCES, "memorised": ()}.get(concept.kind, OBJECT_SENTENCES)
    aliases = [(template, alias) for alias in concept.aliases for template in _ALIAS_SENTENCES]
    pairs = [(template.format(word), template.format(guide) if guide else "")
             for template, word in [*((template, name) for template in templates), *aliases]]  # fmt: skip
    return [(name, guide), *pairs]
