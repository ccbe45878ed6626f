"""Two judges as one: each is asked what it knows, the first first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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


# The judge of evaluations that ask none.


class Nobody:
    """Knows nothing, so that no question can be asked."""

    name, version = "none", "none"

    def knows(self, concept: str) -> bool:
        return False

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()

    def same(self, one: str, other: str) -> bool:
        return False

    def threshold(self, concept: str) -> float:
        return 1.0

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        raise BadInput("There is no judge to ask; choose one with --judge.")


# A judge that is told what else a run asks for, so that it can say what an image became instead.


class Told:
    """The same answers with more peers; a judge of very many classes, or of any words, names few by itself.

    Args:
        judge: Who answers.
        concepts: What the run asks for; what the judge does not know is left out.
    """

    def __init__(self, judge: Judge, concepts: Iterable[str]) -> None:
        self.name, self.version = judge.name, judge.version
        self._judge = judge
        self._peers: dict[str, tuple[str, ...]] = {}  # asked for with every image
        self._concepts = tuple(dict.fromkeys(concept for concept in concepts if judge.knows(concept)))

    def answering(self, concept: str) -> Judge:
        return self._judge

    def knows(self, concept: str) -> bool:
        return self._judge.knows(concept)

    def peers(self, concept: str) -> tuple[str, ...]:
        if concept not in self._peers:
            own = self._judge.peers(concept)
            told = (c for c in self._concepts if not any(self._judge.same(c, other) for other in (concept, *own)))
            self._peers[concept] = (*own, *told)
        return self._peers[concept]

    def same(self, one: str, other: str) -> bool:
        return self._judge.same(one, other)

    def threshold(self, concept: str) -> float:
        return self._judge.threshold(concept)

    def floor(self, concept: str) -> float:
        return self._judge.floor(concept) if isinstance(self._judge, Hesitant) else self.threshold(concept)

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        return self._judge.scores(images, concepts)
