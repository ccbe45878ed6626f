"""Names of concepts that are written in different ways: `Golf Ball`, `golf_ball`, `a golf ball` and `GolfBall`."""

from __future__ import annotations

import re

from efface.request.record import folded

_ARTICLES = ("a", "an", "the")


def plain_words(concept: str) -> str:
    """A concept in lower case, without article, hyphens and underscores (`vincent-van-gogh`, `golf_ball`)."""
    words = folded(concept).replace("_", " ").replace("-", " ").split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in _ARTICLES else words)


def name_key(concept: str) -> str:
    """A text that is equal for all ways to write a name: its plain words without spaces and punctuation."""
    words = plain_words(concept)
    # "C++" and "C" are two names, and an emoji is a name too.
    return "".join(sign for sign in words if sign.isalnum() or sign in "+#") or words.replace(" ", "")


def naming(concept: str) -> re.Pattern[str]:
    """A pattern for a concept's name in a prompt, as separate words."""
    return re.compile(rf"(?<!\w){re.escape(concept)}(?!\w)", re.IGNORECASE)
