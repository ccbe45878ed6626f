"""Where the images went that were prompted for an erased concept."""

from collections.abc import Mapping
from dataclasses import dataclass

from efface.protocols import Evaluation
from efface.report.series import Series, erasers_of, series_of

PLACES = {
    "concept": "the erased concept came through",
    "undecided": "the judge does not know whether it did",
    "guide": "what it was erased towards",
    "other": "another concept that the judge knows",
    "nothing": "nothing the judge recognises",
    "broken": "blank or noise",
    "error": "no verdict",
}


@dataclass(frozen=True)
class Share:
    """Where one model's images of a concept went: the places in their order, with counts."""

    of: Series
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """All images."""
        return sum(self.counts.values())


def shares(evaluation: Evaluation) -> dict[str, list[Share]]:
    """By concept: before, then after each eraser that erased it."""
    series = series_of(evaluation)
    found: dict[str, list[Share]] = {}
    for concept in dict.fromkeys(c for result in erasers_of(evaluation).values() for c in result.went):
        for name, result in evaluation.results.items():
            counts = {place: n for place in PLACES if (n := result.went.get(concept, {}).get(place, 0))}
            if counts:
                found.setdefault(concept, []).append(Share(series[name], counts))
    return found
