"""The syntax of questions: paths, and rules such as `nudity@0.6`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from efface.errors import BadInput


def digest_of_words(words: Iterable[str]) -> str:
    """A short hash of a list of words in any order, for the version of a judge whose scores depend on them."""
    return hashlib.sha256("\0".join(sorted(words)).encode()).hexdigest()[:12]


def is_path(text: str) -> bool:
    """Whether a text names a file or folder. A text that cannot be a path, such as a long caption, names none."""
    try:
        return bool(text.strip()) and Path(text).exists()
    except (OSError, ValueError):
        return False


def split_rule(question: str) -> tuple[str, str]:
    """`CONCEPT@RULE` as its two parts; the rule is empty if the question has none."""
    concept, _, rule = question.partition("@")
    return concept.strip(), rule.strip()


def threshold_of(rule: str, default: float) -> float:
    """The threshold of a rule (`0.6`), or the default if the rule is empty.

    Raises:
        BadInput: The rule is not a number above 0 and up to 1.
    """
    if not rule:
        return default
    try:
        value = float(rule)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise BadInput(f"'@{rule}' is not a threshold; write a number above 0 and up to 1, such as nudity@0.6.")
    return value
