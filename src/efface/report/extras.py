"""What only some protocols measure, empty where one does not: scores and distances, single attacks, ranks."""

import math
from collections.abc import Mapping
from typing import Protocol

from efface.metrics.base import Value
from efface.metrics.rates import Rate
from efface.protocols import Evaluation, Probe, Result
from efface.report.series import erasers_of


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
    """An eraser's place by the score over all; of equals, the one that changes the weights less comes first."""
    scored = {key: result for key, result in erasers_of(evaluation).items() if "err" in result.metrics}

    def place(key: str) -> tuple[float, float]:
        return -scored[key].metrics["err"].value, weight_change_of(scored[key]) or math.inf

    return 1 + sum(place(key) < place(name) for key in scored) if name in scored else None


def weight_change_of(result: Result) -> float | None:
    """How much the weights changed, which decides between equals."""
    return getattr(result, "weight_change", None)
