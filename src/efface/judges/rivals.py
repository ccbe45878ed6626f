"""A judge that is told what else a run asks for, so that it can say what an image became instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from efface.judges.base import Hesitant, Judge, Pixels, Scores


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
