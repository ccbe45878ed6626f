"""The notation of Concept Ablation's `caption_target`: ANCHOR+TARGET, several of them separated by semicolons.

cat+grumpy cat;dog+snoopy      erases "grumpy cat" with the guide "cat", and "snoopy" with the guide "dog"
"""

from __future__ import annotations

from collections.abc import Sequence

from efface.errors import BadRequest


def read_captions(concepts: Sequence[str], guides: Sequence[str | None]) -> tuple[list[str], list[str | None]]:
    """Names and guides from concepts that may be in this notation.

    Args:
        concepts: The concepts.
        guides: The guides that are given separately.

    Returns:
        The names, and one guide per name if a concept has an anchor; otherwise the names and the given guides.

    Raises:
        BadRequest: A target or anchor is empty, a concept has two "+", or an anchor is given beside a guide.
    """
    captions = [part.strip() for concept in concepts for part in concept.split(";")]
    pairs = [[word.strip() for word in caption.split("+")] for caption in captions]
    for caption, pair in zip(captions, pairs, strict=True):
        if len(pair) > 2 or not all(pair):
            raise BadRequest(f"Cannot read '{caption}' as anchor+target; write e.g. 'cat+grumpy cat'.")
    names = [pair[-1] for pair in pairs]
    if all(len(pair) == 1 for pair in pairs):
        return names, list(guides)
    if guides:
        raise BadRequest("The anchor is the guide; give it before the '+' or with --to, not both.")
    return names, [pair[0] if len(pair) == 2 else None for pair in pairs]
