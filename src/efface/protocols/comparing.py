"""Erasers against each other: is one better, or is it chance?

A pair is one question about one prompt and seed that both erasers have an answer to. Of the rates that both have, each
gets the difference over these pairs, with an interval that resamples prompts, and McNemar's exact p, which takes images
as independent (`efface.metrics.paired`). Many images of one prompt make p too small, few prompts make the interval too
narrow: believe what both show. No p is corrected for the number of comparisons.

Left out are `err`, which is no share of images; scores and distances, of which protocols keep no value an image; and
prompts that attacks found, which are each eraser's own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from efface.generation.jobs import Job
from efface.metrics.base import Measured
from efface.metrics.paired import mcnemar
from efface.protocols.answers import Count, by_prompt
from efface.protocols.base import Shot
from efface.protocols.results import Result

#: Of more erasers, such as the checkpoints of a training, each is compared with the first alone.
EACH_WITH_EACH = 4

#: Shots with an answer by what was asked and how it was drawn.
Answered = Mapping[tuple[str, Job], Shot]


@dataclass(frozen=True)
class ErasersCompared:
    """One rate of two erasers.

    Attributes:
        first: An eraser's name.
        second: Another's.
        metric: The rate's flat name.
        difference: The second minus the first, on the same prompts and seeds.
    """

    first: str
    second: str
    metric: str
    difference: Measured

    def as_dict(self) -> dict[str, Any]:
        """What JSON carries."""
        return {"first": self.first, "second": self.second, "metric": self.metric, **self.difference.as_dict()}


def comparisons(results: Mapping[str, Result], rates: Mapping[str, Mapping[str, Count]]) -> tuple[ErasersCompared, ...]:
    """Each eraser against each, or of more than four against the first.

    Args:
        results: By name.
        rates: By eraser, in the order of comparison, its rates by flat name: what answers add to them.
    """
    answered = {
        name: {metric: _answered(results[name], count) for metric, count in counts.items()}
        for name, counts in rates.items()
    }
    return tuple(
        ErasersCompared(first, second, metric, difference)
        for first, second in _pairs(list(rates))
        for metric, count in rates[first].items()
        if metric in rates[second]
        and (difference := _difference(answered[first][metric], count, answered[second][metric], rates[second][metric]))
    )


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for first, second in combinations(names, 2):
        if len(names) <= EACH_WITH_EACH or first == names[0]:
            yield first, second


def _answered(result: Result, count: Count) -> Answered:
    return {
        (shot.probe.concept, shot.probe.job): shot
        for shot in result.shots
        if shot.found is not None and shot.probe.attack is None and count(shot) is not None
    }


def _difference(first: Answered, count: Count, second: Answered, other: Count) -> Measured | None:
    """The second minus the first where both have an answer; None where they share none, or it is neither yes nor no."""
    shared = [key for key in first if key in second]
    before, after = by_prompt((first[k] for k in shared), count), by_prompt((second[k] for k in shared), other)
    outcomes = {outcome for cluster in (*before, *after) for outcome in cluster}
    return mcnemar(before, after) if outcomes and outcomes <= {0, 1} else None
