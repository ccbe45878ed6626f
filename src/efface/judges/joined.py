"""Two judges as one: each is asked what it knows, the first first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from efface.errors import BadInput
from efface.judges.base import Hesitant, Judge, Pixels, Scores


class JoinedJudge:
    """Objects by one judge and styles by another, or copies by one and all else by another.

    Args:
        first: Asked first.
        second: Asked what the first does not know.
        rivals: Concept -> what an image of it could also have become, where its own judge does not say.
    """

    def __init__(self, first: Judge, second: Judge, rivals: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.name = f"{first.name}+{second.name}"
        self.version = f"{first.version}; {second.version}"
        self._judges, self._rivals = (first, second), dict(rivals or {})

    def knows(self, concept: str) -> bool:
        return any(judge.knows(concept) for judge in self._judges)

    def peers(self, concept: str) -> tuple[str, ...]:
        return self._rivals[concept] if concept in self._rivals else self.answering(concept).peers(concept)

    def same(self, one: str, other: str) -> bool:
        return one == other or any(judge.same(one, other) for judge in self._judges)

    def threshold(self, concept: str) -> float:
        return self.answering(concept).threshold(concept)

    def floor(self, concept: str) -> float:
        judge = self.answering(concept)
        return judge.floor(concept) if isinstance(judge, Hesitant) else judge.threshold(concept)

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        found = np.full((len(images), len(concepts)), np.nan)
        for judge in self._judges:
            mine = [i for i, concept in enumerate(concepts) if self.answering(concept) is judge]
            if mine:
                found[:, mine] = judge.scores(images, [concepts[i] for i in mine])
        return found

    def answering(self, concept: str) -> Judge:
        for judge in self._judges:
            if judge.knows(concept):
                return judge
        raise BadInput(f"Neither of the judges '{self.name}' can recognise '{concept}'; ask for something one knows.")
