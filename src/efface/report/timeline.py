"""Numbers of each concept over time, where erasers are attached one after the other; inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from efface.metrics.base import Measured
from efface.protocols import BASE, Evaluation
from efface.protocols.base import Metric
from efface.report.words import COLOURS, number, percent

#: The view box: its size, and the rectangle in it that is plotted on.
WIDTH, HEIGHT = 460, 250
LEFT, TOP, SIDE_X, SIDE_Y = 52, 16, 392, 200
_TICKS = 4


@dataclass(frozen=True)
class Moment:
    """One number of one concept at one time.

    Attributes:
        x: Its position to the right.
        y: Its position downwards.
        erased: Whether the concept is erased then.
        words: What it says.
    """

    x: float
    y: float
    erased: bool
    words: str


@dataclass(frozen=True)
class ConceptLine:
    """The numbers of one concept.

    Attributes:
        concept: The concept.
        mark: The CSS class of its colour.
        path: The SVG path through them.
        moments: The numbers.
    """

    concept: str
    mark: str
    path: str
    moments: Sequence[Moment]


@dataclass(frozen=True)
class Timeline:
    """One number of all concepts over time.

    Attributes:
        scenario: The eraser whose concepts are erased and restored.
        metric: The number, without the concept.
        meaning: What it means.
        events: The events.
        lines: The concepts.
        columns: The positions of the events to the right, the unedited model first, with their numbers.
        ticks: Positions downwards with their labels.
        left: The left end of the rectangle that is plotted on.
        right: Its right end.
        bottom: Its lower end.
        width: The view box's width.
        height: The view box's height.
    """

    scenario: str
    metric: str
    meaning: str
    events: Sequence[str]
    lines: Sequence[ConceptLine]
    columns: Sequence[tuple[float, str]]
    ticks: Sequence[tuple[float, str]]
    left: float = LEFT
    right: float = LEFT + SIDE_X
    bottom: float = TOP + SIDE_Y
    width: int = WIDTH
    height: int = HEIGHT


def timelines(evaluation: Evaluation) -> Iterator[Timeline]:
    """A figure for each number that an evaluation has of each concept at several times; none without events."""
    records: Mapping[str, Mapping[str, Any]] = evaluation.provenance.get("erasers", {})
    scenarios: dict[str, list[str]] = {}
    for name, record in records.items():
        if "event" in record:
            scenarios.setdefault(record["scenario"], []).append(name)
    for scenario, names in scenarios.items():
        events = [str(records[name]["event"]) for name in names]
        erased = [{concept["name"] for concept in records[name]["request"]["concepts"]} for name in names]
        for metric in evaluation.metrics:
            prefix = metric.name.partition("CONCEPT")[0]
            if prefix == metric.name:
                continue
            series = _series(evaluation, metric, prefix, names)
            if series:
                yield _timeline(scenario, metric, prefix.rstrip("_"), events, series, erased)


def _series(
    evaluation: Evaluation, metric: Metric, prefix: str, names: Sequence[str]
) -> dict[str, dict[int, Measured]]:
    """By concept, the numbers by time; 0 is the unedited model."""
    series: dict[str, dict[int, Measured]] = {}
    for time, name in enumerate((BASE, *names)):
        for key, value in evaluation.erasers[name].metrics.items():
            if metric.matches(key):
                series.setdefault(key.removeprefix(prefix), {})[time] = value
    return series


def _timeline(
    scenario: str,
    metric: Metric,
    title: str,
    events: Sequence[str],
    series: Mapping[str, Mapping[int, Measured]],
    erased: Sequence[set[str]],
) -> Timeline:
    values = [one.value for of_concept in series.values() for one in of_concept.values()]
    is_share = metric.unit == "share"
    low, high = (0.0, 1.0) if is_share else (min(0.0, *values), max(values, default=1.0) or 1.0)
    words = percent if is_share else number
    xs = [LEFT + 12 + (SIDE_X - 24) * time / max(len(events), 1) for time in range(len(events) + 1)]

    def y(value: float) -> float:
        return round(TOP + SIDE_Y * (high - value) / (high - low), 1)

    lines: list[ConceptLine] = []
    for index, (concept, of_concept) in enumerate(series.items()):
        moments = [
            Moment(
                round(xs[time], 1),
                y(one.value),
                time > 0 and concept in erased[time - 1],
                f"{concept}, {events[time - 1] if time else 'before'}: {words(one.value)}",
            )
            for time, one in of_concept.items()
        ]
        path = "M" + "L".join(f"{moment.x} {moment.y}" for moment in moments)
        lines.append(ConceptLine(concept, f"s{index % COLOURS}", path, moments))
    ticks = [low + (high - low) * step / _TICKS for step in range(_TICKS + 1)]
    return Timeline(
        scenario,
        title,
        metric.meaning,
        events,
        lines,
        [(round(x, 1), str(time)) for time, x in enumerate(xs)],
        [(y(tick), percent(tick) if is_share else f"{tick:.2g}") for tick in ticks],
    )
