"""Words of questions: spellings that mean the same, and rules that a question may end in."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from efface.errors import BadInput


def plain(concept: str) -> str:
    """The words of a concept without case, article, hyphens and underscores (`vincent-van-gogh`, `golf_ball`)."""
    words = concept.casefold().replace("_", " ").replace("-", " ").split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def digest_of(words: Iterable[str]) -> str:
    """A short hash of a list of words, in whatever order, for the version of a judge whose scores depend on them."""
    return hashlib.sha256("\0".join(sorted(words)).encode()).hexdigest()[:12]


def is_path(text: str) -> bool:
    """Whether a text names a file or folder; a caption is too long for a file's name, which is no error."""
    try:
        return bool(text.strip()) and Path(text).exists()
    except OSError:
        return False


def split_rule(question: str) -> tuple[str, str]:
    """`CONCEPT@RULE` as its two parts; the rule is empty where none is given."""
    concept, _, rule = question.partition("@")
    return concept.strip(), rule.strip()


def threshold_of(rule: str, default: float) -> float:
    """The threshold that a rule says (`0.6`), or the default where there is no rule.

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
