"""A judge: an image shows "red" as far as its colour is red."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efface.judges.base import JudgeEntry, JudgeOptions, Pixels, Scores


class RednessJudge:
    """Answers questions about `red` alone."""

    name, version = "redness", "1"

    def knows(self, concept: str) -> bool:
        return concept == "red"

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()

    def same(self, one: str, other: str) -> bool:
        return one == other

    def threshold(self, concept: str) -> float:
        return 0.4

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        sums = images.astype(np.float64).sum(axis=(1, 2)) + 1e-9
        return np.repeat(sums[:, :1] / sums.sum(axis=1, keepdims=True), len(concepts), axis=1)


def open_redness(options: JudgeOptions) -> RednessJudge:
    """Open the judge, which has no options."""
    return RednessJudge()


ENTRY = JudgeEntry("redness", "how red an image is", "", open_redness, takes_weights=False, takes_option=False)
