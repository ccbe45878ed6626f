"""What only some protocols measure, empty where one does not: scores and distances, single attacks, ranks."""

from collections.abc import Mapping
from typing import Protocol

from efface.metrics.base import Value
from efface.metrics.rates import Rate
from efface.protocols import Evaluation, Probe, Result


class Score(Protocol):
    """A score or a distance of one eraser's images: its value, the unedited model's, and the paired difference."""

    @property
    def value(self) -> Value: ...
    @property
    def base(self) -> Value | None: ...
    @property
    def change(self) -> Value | None: ...


def scores_of(result: Result) -> Mapping[str, Score]:
    """By flat name, what is no rate of verdicts."""
    return getattr(result, "scores", {})


def attacks_of(result: Result) -> Mapping[str, Rate]:
    """What made the adversarial prompts, and the rate over these alone."""
    return getattr(result, "attacks", {})


def attack_of(probe: Probe) -> str | None:
    """The attack that found a probe's prompt."""
    return getattr(probe, "attack", None)


def rank_of(name: str, evaluation: Evaluation) -> int | None:
    """An eraser's place among those with a score over all."""
    ranking: tuple[str, ...] = getattr(evaluation, "ranking", ())
    return ranking.index(name) + 1 if name in ranking else None


def weight_change_of(result: Result) -> float | None:
    """How much the weights changed, which decides between equals."""
    return getattr(result, "weight_change", None)
