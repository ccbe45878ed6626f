"""The judge of evaluations that ask none."""

from collections.abc import Sequence

from efface.errors import BadInput
from efface.judges.base import Pixels, Scores


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
