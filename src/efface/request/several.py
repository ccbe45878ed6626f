"""Several names in one text, such as "nudity, violence": one concept to a method, two concepts to its user."""

from __future__ import annotations

import re

from efface.errors import BadRequest

#: More words than this between two commas are a caption.
_WORDS = 3
_SEPARATOR = re.compile("[,;|\n\uff0c\u3001\uff1b]")  # the last three are Chinese and Japanese


def several_names(text: str) -> list[str]:
    """The names that a text lists; empty for one name, and for a caption."""
    names = [part.strip() for part in _SEPARATOR.split(text)]
    is_list = len(names) > 1 and all(1 <= len(name.split()) <= _WORDS for name in names)
    return names if is_list else []


def check_one_name(text: str, option: str = "") -> None:
    """Check that a text is not a list of names.

    Args:
        text: The text.
        option: The option before each name, which the fix repeats.

    Raises:
        BadRequest: The text lists several names.
    """
    if names := several_names(text):
        fix = " ".join(f"{option} '{name}'".strip() for name in names)
        raise BadRequest(
            f"'{text}' reads as {len(names)} names; give each by itself: {fix}. A name with a comma is written in a "
            "request file (--config)."
        )
