"""Where the images went that were prompted for an erased concept, by its name or otherwise."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from efface.protocols import Evaluation, Result
from efface.protocols.results import Destinations
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
    """Where one model's images of a concept went that a rate is of: the places in their order, with counts."""

    of: Series
    counts: Mapping[str, int]
    metric: str = "forget"

    @property
    def total(self) -> int:
        """All images."""
        return sum(self.counts.values())


def shares(evaluation: Evaluation) -> dict[str, list[Share]]:
    """By concept, rate by rate: before, then after each eraser that erased it."""
    series = series_of(evaluation)
    found: dict[str, list[Share]] = {}
    erasers = [_by_rate(result) for result in erasers_of(evaluation).values()]
    for metric in dict.fromkeys(metric for rates in erasers for metric in rates):
        for concept in dict.fromkeys(c for rates in erasers for c in rates.get(metric, {})):
            for name, result in evaluation.results.items():
                there = _by_rate(result).get(metric, {}).get(concept, {})
                if counts := {place: n for place in PLACES if (n := there.get(place, 0))}:
                    found.setdefault(concept, []).append(Share(series[name], counts, metric))
    return found


def judged(counts: Mapping[str, int]) -> int:
    """Images with an answer, be it that the judge is undecided."""
    return sum(counts.values()) - counts.get("error", 0)


def found_in(went: Destinations) -> dict[str, float]:
    """The share of each erased concept's images in which it is found, of those with a yes or no."""
    answered = {concept: judged(places) - places.get("undecided", 0) for concept, places in went.items()}
    return {concept: went[concept].get("concept", 0) / n for concept, n in answered.items() if n}


def broken_in(counts: Mapping[str, int]) -> float:
    """The share that is blank or noise, of images with an answer."""
    n = judged(counts)
    return counts.get("broken", 0) / n if n else 0.0


def together(went: Destinations) -> Counter[str]:
    """The counts of all concepts."""
    counts: Counter[str] = Counter()
    for places in went.values():
        counts.update(places)
    return counts


def _by_rate(result: Result) -> Mapping[str, Destinations]:
    return {"forget": result.went, **result.went_by}
