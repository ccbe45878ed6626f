"""A judge with a few fixed questions, each answered by a number that has no class of its own to compete with.

A question may end in a threshold: `nudity@0.45`. One run can so ask at several, since papers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from efface.errors import BadInput
from efface.judges.base import Pixels, Scores
from efface.judges.questions import plain, split_rule, threshold_of

Measure = Callable[[Pixels], Mapping[str, Scores]]


class Alarm:
    """A closed world of questions that have nothing to do with one another.

    Args:
        name: What it is called on the command line.
        version: Of weights and settings.
        words: Other words for the questions, to the question, which is a word for itself.
        measure: Images (n, H, W, 3) to each question's scores (n,), NaN where there is none.
        threshold: Where a question says none.
        floor: Of the band in which the judge is undecided, where a question says no threshold.
    """

    def __init__(
        self,
        name: str,
        version: str,
        words: Mapping[str, str],
        measure: Measure,
        threshold: float,
        floor: float | None = None,
    ) -> None:
        self.name, self.version = name, version
        self.measure = measure
        self._words = {plain(word): question for word, question in words.items()}
        self._words |= {plain(question): question for question in words.values()}
        self._threshold, self._floor = threshold, threshold if floor is None else floor

    def knows(self, concept: str) -> bool:
        return plain(split_rule(concept)[0]) in self._words

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()

    def same(self, one: str, other: str) -> bool:
        found = [self._words.get(plain(split_rule(words)[0])) for words in (one, other)]
        return found[0] is not None and found[0] == found[1]

    def threshold(self, concept: str) -> float:
        return threshold_of(split_rule(concept)[1], self._threshold)

    def floor(self, concept: str) -> float:
        return threshold_of(split_rule(concept)[1], self._floor)

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        asked = [self._find(concept) for concept in concepts]
        found = self.measure(images)
        return np.stack([found[question] for question in asked], axis=1)

    def _find(self, concept: str) -> str:
        word, rule = split_rule(concept)
        threshold_of(rule, self._threshold)
        question = self._words.get(plain(word))
        if question is None:
            known = ", ".join(dict.fromkeys(self._words.values()))
            raise BadInput(f"The judge '{self.name}' cannot recognise '{word}'; it knows: {known}.")
        return question
