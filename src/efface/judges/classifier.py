"""A judge made of any classifier: a closed world of classes, asked for by name.

With logits l of K classes, and J the classes that the concept names (a word such as "crane" may name two),

    score(c | image) = sigmoid(log sum_{j in J} exp(l_j) - max_{k not in J} l_k)

which is the probability of the concept against its strongest rival alone. It is 1/2 or more exactly where the concept
is the classifier's first choice, so that the threshold 1/2 is the literature's top-1 rule. A question `CONCEPT@top3`
takes the third strongest rival instead: top 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from efface.errors import BadInput
from efface.judges.base import Pixels, Scores
from efface.judges.questions import plain, split_rule

# With more classes than these, asking for all of them of every image would bury the answers that matter.
_FEW = 100
_TOP = re.compile(r"top(\d{1,6})")


class ClassJudge:
    """A closed world of classes.

    Args:
        name: What it is called on the command line.
        version: Of weights and settings.
        classes: The words of each class, its own name first.
        logits: The classifier: images (n, H, W, 3) to logits (n, K).
        alternatives: Concepts that the run tells apart; the peers where there are too many classes to ask for all.
        rivals: How many of the first classes are rivals; the rest are only asked for. By default all are.
    """

    def __init__(
        self,
        name: str,
        version: str,
        classes: Sequence[Sequence[str]],
        logits: Callable[[Pixels], Tensor],
        alternatives: Sequence[str] = (),
        rivals: int | None = None,
    ) -> None:
        self._rivals = len(classes) if rivals is None else rivals
        self.name, self.version = name, f"{version}, top-1 of {self._rivals} classes"
        self.logits = logits
        self.classes = tuple(words[0] for words in classes)
        self._indices: dict[str, tuple[int, ...]] = {}
        for index, words in enumerate(classes):
            for word in {plain(word) for word in words}:
                self._indices[word] = (*self._indices.get(word, ()), index)
        known = [word for word in alternatives if self.knows(word)]
        self._peers = self.classes if len(classes) <= _FEW else tuple(known)

    def knows(self, concept: str) -> bool:
        return plain(split_rule(concept)[0]) in self._indices

    def peers(self, concept: str) -> tuple[str, ...]:
        return tuple(name for name in self._peers if not self.same(name, concept))

    def same(self, one: str, other: str) -> bool:
        found = [self._indices.get(plain(split_rule(words)[0])) for words in (one, other)]
        return found[0] is not None and found[0] == found[1]

    def threshold(self, concept: str) -> float:
        self._find(concept)
        return 0.5

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        asked = [self._find(concept) for concept in concepts]
        logits_nk = self.logits(images).cpu().double()
        columns: list[Scores] = []
        for indices, top in asked:
            mine = logits_nk[:, list(indices)].logsumexp(1)
            rivals = logits_nk[:, [k for k in range(self._rivals) if k not in indices]]
            rival = rivals.topk(top, 1).values[:, -1] if rivals.shape[1] >= top else torch.full_like(mine, -torch.inf)
            columns.append((mine - rival).sigmoid().numpy())
        # A NaN among the rivals may hide from the margin.
        return np.where(logits_nk.isfinite().all(1).numpy()[:, None], np.stack(columns, axis=1), np.nan)

    def _find(self, concept: str) -> tuple[tuple[int, ...], int]:
        """The classes that a question names, and how many choices the classifier has."""
        word, rule = split_rule(concept)
        indices = self._indices.get(plain(word))
        if indices is None:
            near = get_close_matches(plain(word), self._indices, n=5, cutoff=0.5) or self.classes[:5]
            said = f"The judge '{self.name}' cannot recognise '{word}'; it knows {len(self.classes)} classes"
            raise BadInput(f"{said}, such as {', '.join(near)}.")
        top = _TOP.fullmatch(rule or "top1")
        if not top or not 1 <= int(top[1]) <= len(self.classes):
            raise BadInput(f"'@{rule}' is not a rule for '{word}'; write @top1, @top3 or another place.")
        return indices, int(top[1])
