"""Judges made of other judges: two as one, none at all, and one with more peers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from efface.errors import BadInput
from efface.judges.base import HasUndecidedBand, Judge, Pixels, Scores


class JoinedJudge:
    """Two judges as one: each question goes to the first judge that knows the concept.

    For example objects by one judge and styles by another, or copies by one and everything else by another.

    Args:
        first: The judge that is tried first.
        second: The judge of all other concepts.
        rivals: For some concepts, the peers that replace those of their judge.
    """

    def __init__(self, first: Judge, second: Judge, rivals: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.name = f"{first.name}+{second.name}"
        self.version = f"{first.version}; {second.version}"
        self._judges, self._rivals = (first, second), dict(rivals or {})

    def knows(self, concept: str) -> bool:
        return any(judge.knows(concept) for judge in self._judges)

    def peers(self, concept: str) -> tuple[str, ...]:
        return self._rivals[concept] if concept in self._rivals else self._judge_for(concept).peers(concept)

    def same(self, one: str, other: str) -> bool:
        return one == other or any(judge.same(one, other) for judge in self._judges)

    def threshold(self, concept: str) -> float:
        return self._judge_for(concept).threshold(concept)

    def floor(self, concept: str) -> float:
        judge = self._judge_for(concept)
        return judge.floor(concept) if isinstance(judge, HasUndecidedBand) else judge.threshold(concept)

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        scores = np.full((len(images), len(concepts)), np.nan)
        for judge in self._judges:
            columns = [i for i, concept in enumerate(concepts) if self._judge_for(concept) is judge]
            if columns:
                scores[:, columns] = judge.scores(images, [concepts[i] for i in columns])
        return scores

    def _judge_for(self, concept: str) -> Judge:
        for judge in self._judges:
            if judge.knows(concept):
                return judge
        raise BadInput(f"Neither of the judges '{self.name}' can recognise '{concept}'; ask for something one knows.")


class NoJudge:
    """The judge of evaluations without questions: it knows no concept."""

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


class WithPeers:
    """The same answers with more peers, so that the judge can say what an image shows instead of a concept.

    A judge with very many classes, or one of any words, has few peers by itself; the other concepts of the run are
    added to them.

    Args:
        judge: The judge that answers.
        concepts: The concepts of the run. Those that the judge does not know are left out.
    """

    def __init__(self, judge: Judge, concepts: Iterable[str]) -> None:
        self.name, self.version = judge.name, judge.version
        self._judge = judge
        self._peers: dict[str, tuple[str, ...]] = {}  # a cache: peers are needed for every image
        self._concepts = tuple(dict.fromkeys(concept for concept in concepts if judge.knows(concept)))

    def knows(self, concept: str) -> bool:
        return self._judge.knows(concept)

    def peers(self, concept: str) -> tuple[str, ...]:
        if concept not in self._peers:
            peers = self._judge.peers(concept)
            added = (c for c in self._concepts if not any(self._judge.same(c, other) for other in (concept, *peers)))
            self._peers[concept] = (*peers, *added)
        return self._peers[concept]

    def same(self, one: str, other: str) -> bool:
        return self._judge.same(one, other)

    def threshold(self, concept: str) -> float:
        return self._judge.threshold(concept)

    def floor(self, concept: str) -> float:
        return self._judge.floor(concept) if isinstance(self._judge, HasUndecidedBand) else self.threshold(concept)

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        return self._judge.scores(images, concepts)
