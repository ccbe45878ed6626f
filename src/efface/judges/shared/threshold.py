"""Base class for judges with a few fixed questions, each with a score and a threshold, and with no rival classes.

A question may end in a threshold: `nudity@0.45`. One run can use several, since papers use different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from efface.errors import BadInput
from efface.judges.base import Pixels, Scores
from efface.judges.shared.questions import split_rule, threshold_of
from efface.request.names import name_key

ScorePixels = Callable[[Pixels], Mapping[str, Scores]]


class ThresholdJudge:
    """Answers a closed list of independent questions.

    Args:
        name: The judge's name on the command line.
        version: The version of weights and settings.
        questions: Words by which users can ask, with the question that each one means. A question names itself.
        measure: Returns the scores (n,) of each question for images (n, H, W, 3); NaN where there is none.
        threshold: The threshold of a question without a rule.
        floor: The lower end of the undecided band of a question without a rule; by default there is no band.
    """

    def __init__(
        self,
        name: str,
        version: str,
        questions: Mapping[str, str],
        measure: ScorePixels,
        threshold: float,
        floor: float | None = None,
    ) -> None:
        self.name, self.version = name, version
        self.measure = measure
        self._questions = {name_key(word): question for word, question in questions.items()}
        self._questions |= {name_key(question): question for question in questions.values()}
        self._threshold, self._floor = threshold, threshold if floor is None else floor

    def knows(self, concept: str) -> bool:
        return name_key(split_rule(concept)[0]) in self._questions

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()

    def same(self, one: str, other: str) -> bool:
        first, second = (self._questions.get(name_key(split_rule(words)[0])) for words in (one, other))
        return first is not None and first == second

    def threshold(self, concept: str) -> float:
        return threshold_of(split_rule(concept)[1], self._threshold)

    def floor(self, concept: str) -> float:
        return threshold_of(split_rule(concept)[1], self._floor)

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        questions = [self._question(concept) for concept in concepts]
        scores = self.measure(images)
        return np.stack([scores[question] for question in questions], axis=1)

    def _question(self, concept: str) -> str:
        word, rule = split_rule(concept)
        threshold_of(rule, self._threshold)
        question = self._questions.get(name_key(word))
        if question is None:
            known = ", ".join(dict.fromkeys(self._questions.values()))
            raise BadInput(f"The judge '{self.name}' cannot recognise '{word}'; it knows: {known}.")
        return question
