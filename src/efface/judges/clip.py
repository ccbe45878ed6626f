"""Zero-shot judge: the one of several texts that CLIP finds closest to the image.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020;
https://github.com/openai/CLIP. The score of a concept c among alternatives A is

    p(c | image) = exp(s cos(f(image), g(c))) / sum_{a in {c} u A} exp(s cos(f(image), g(a)))

with f and g CLIP's unit-length features and s its learned scale. The alternatives are the other concepts of the run,
"something else", and the one of many everyday names (`efface.judges.shared.everyday`) that is closest to the image. The
other questions about an image do not change a score. The alternatives do, so the version has a hash of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import Tensor, cat

from efface.judges.base import JudgeEntry, JudgeOptions, Pixels, Scores
from efface.judges.shared.everyday import rivals_of
from efface.judges.shared.questions import digest_of_words
from efface.models.clip import EMBEDDED, Clip, open_clip
from efface.models.open import open_model
from efface.request.names import name_key

NOTHING = "something else"


class ClipJudge:
    """Answers questions about any words.

    Args:
        clip: The CLIP.
        alternatives: Concepts to choose among, besides "something else".
        template: The text for a concept, with a place for the concept.
        rivals: Further names that compete with a concept; none by default.
    """

    name = "clip"

    def __init__(
        self,
        clip: Clip,
        alternatives: Sequence[str] = (),
        template: str = "a {}",
        rivals: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        self._clip = clip
        self._rivals = rivals
        self._alternatives = tuple(dict.fromkeys(alternatives))
        self.version = f"{clip.version}, '{template}' or '{NOTHING}'"
        if self._alternatives:
            self.version += f", {len(self._alternatives)} alternatives {digest_of_words(self._alternatives)}"
        if rivals:
            self.version += f", everyday names {digest_of_words(rivals(''))}"
        self._template = template

    def knows(self, concept: str) -> bool:
        return bool(concept.strip())

    def peers(self, concept: str) -> tuple[str, ...]:
        return tuple(name for name in self._alternatives if not self.same(name, concept))

    def same(self, one: str, other: str) -> bool:
        return name_key(one) == name_key(other)

    def threshold(self, concept: str) -> float:
        return 0.5

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        everyday = {concept: self._everyday(concept) for concept in concepts}
        rivals_of_all = [name for names in everyday.values() for name in names]
        texts = list(dict.fromkeys((*concepts, *self._alternatives, *rivals_of_all)))
        logits = self.logits(images, [*(self._template.format(text) for text in texts), NOTHING])
        columns: list[Scores] = []
        for concept in concepts:
            chosen = logits[:, [*(texts.index(text) for text in (concept, *self.peers(concept))), -1]]
            if everyday[concept]:
                rivals = logits[:, [texts.index(text) for text in everyday[concept]]]
                chosen = cat([chosen, rivals.amax(1, keepdim=True)], 1)
            columns.append(chosen.softmax(1)[:, 0].numpy())
        return np.stack(columns, axis=1)

    def _everyday(self, concept: str) -> list[str]:
        """The everyday names that compete with a concept, without the other concepts of the run."""
        known = {name_key(name) for name in (concept, *self.peers(concept))}
        return [name for name in self._rivals(concept) if name_key(name) not in known] if self._rivals else []

    def logits(self, images: Pixels, texts: Sequence[str]) -> Tensor:
        """s cos(f(image), g(text)), of shape (n, m), float64, for n images of shape (n, H, W, 3) and m texts."""
        return self._clip.cosines(images, texts) * self._clip.scale


def _open(options: JudgeOptions) -> ClipJudge:
    # The CLIP of the embedded model knows only the words of its world.
    world = open_model(EMBEDDED).world if options.weights in ("", EMBEDDED) else None
    clip = open_clip(options.weights, options.device)
    return ClipJudge(clip, options.alternatives, rivals=partial(rivals_of, world=world))


ENTRY = JudgeEntry(
    name="clip",
    summary="zero-shot choice by any CLIP (clip:FOLDER or clip:HUB-ID; plain, the embedded model's own)",
    source="https://arxiv.org/abs/2103.00020",
    open=_open,
    takes_option=False,
)
