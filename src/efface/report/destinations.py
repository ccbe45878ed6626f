"""What the images show that were prompted for an erased concept, by its name or otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from efface.protocols import Evaluation
from efface.protocols.results import Destinations
from efface.report.words import Series, erasers_of, series_of

PLACES = {
    "concept": "the erased concept",
    "undecided": "the judge does not know whether it is the erased concept",
    "guide": "what it was erased towards",
    "other": "another concept that the judge knows",
    "nothing": "nothing the judge recognises",
    "broken": "blank or noise",
    "error": "no verdict",
}


@dataclass(frozen=True)
class DestinationShare:
    """What one model's images of a concept show, among the images of one rate.

    Attributes:
        of: The model.
        counts: Number of images by destination, in the order of `PLACES`.
        metric: The rate.
    """

    of: Series
    counts: Mapping[str, int]
    metric: str = "forget"

    @property
    def total(self) -> int:
        """The number of images."""
        return sum(self.counts.values())


def destination_shares(evaluation: Evaluation) -> dict[str, list[DestinationShare]]:
    """By concept, rate by rate: before, then after each eraser that erased it."""
    series = series_of(evaluation)
    shares: dict[str, list[DestinationShare]] = {}
    erasers = [result.destinations for result in erasers_of(evaluation).values()]
    for metric in dict.fromkeys(metric for rates in erasers for metric in rates):
        for concept in dict.fromkeys(c for rates in erasers for c in rates.get(metric, {})):
            for name, result in evaluation.erasers.items():
                places = result.destinations.get(metric, {}).get(concept, {})
                if counts := {place: n for place in PLACES if (n := places.get(place, 0))}:
                    shares.setdefault(concept, []).append(DestinationShare(series[name], counts, metric))
    return shares


def with_answer(counts: Mapping[str, int]) -> int:
    """The number of images with an answer, including undecided."""
    return sum(counts.values()) - counts.get("error", 0)


def shares_shown(destinations: Destinations) -> dict[str, float]:
    """The share of each erased concept's images that show it, of those with a yes or no."""
    decided = {concept: with_answer(places) - places.get("undecided", 0) for concept, places in destinations.items()}
    return {concept: destinations[concept].get("concept", 0) / n for concept, n in decided.items() if n}


def share_broken(counts: Mapping[str, int]) -> float:
    """The share that is blank or noise, of images with an answer."""
    n = with_answer(counts)
    return counts.get("broken", 0) / n if n else 0.0


def all_concepts(destinations: Destinations) -> Counter[str]:
    """The counts of all concepts together."""
    counts: Counter[str] = Counter()
    for places in destinations.values():
        counts.update(places)
    return counts
