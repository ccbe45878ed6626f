"""The trade-off of several erasers: how much is forgotten against how much is retained, with intervals; inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from efface.metrics.base import Measured
from efface.protocols import BASE, Evaluation
from efface.protocols.base import trade_offs
from efface.report.bars import before_of
from efface.report.decision import FORGOTTEN, HARM
from efface.report.words import Series, erasers_of, series_of

#: The view box: its size, and the square in it that is plotted on.
WIDTH, HEIGHT = 400, 360
LEFT, TOP, SIDE_X, SIDE_Y = 40, 28, 350, 290
#: Where an axis may begin, so that erasers that are all good can be distinguished, and the distance of its marks.
SCALES = ((0.9, 0.02), (0.75, 0.05), (0.5, 0.1), (0.25, 0.25), (0.0, 0.25))
#: Marks closer than this hide one another.
NEAR = 9


@dataclass(frozen=True)
class Axis:
    """An axis of shares, from `floor` to 1.

    Attributes:
        floor: The share at its start.
        step: The distance of its marks.
        start: The position of its start, in the view box's units.
        length: Its length, negative upwards.
    """

    floor: float
    step: float
    start: float
    length: float

    def at(self, share: float) -> float:
        """The position of a share; shares below the floor are on the floor."""
        return round(self.start + self.length * (min(max(share, self.floor), 1.0) - self.floor) / (1 - self.floor), 1)

    @property
    def ticks(self) -> list[float]:
        """The marks of the axis, as shares."""
        return [round(self.floor + k * self.step, 2) for k in range(round((1 - self.floor) / self.step) + 1)]


@dataclass(frozen=True)
class Point:
    """An eraser, or the unedited model.

    Attributes:
        of: The model.
        keep: How much is retained.
        forget: How much is forgotten.
        x: The position on the axis to the right.
        y: The position on the axis upwards.
        size: Larger than 1 if a later mark would hide it.
        whiskers: The SVG path of both intervals.
    """

    of: Series
    keep: Measured
    forget: Measured
    x: float
    y: float
    size: float
    whiskers: str


@dataclass(frozen=True)
class Plot:
    """One trade-off.

    Attributes:
        forget: The metric upwards.
        keep: The metric to the right.
        x: Its axis.
        y: Its axis.
        before: The unedited model, if it is one point within the axes.
        points: The erasers.
        goal: The SVG path of the corner where the concept is forgotten and the rest is retained; empty if erasers have
            different numbers before.
        width: The view box's width.
        height: The view box's height.
    """

    forget: str
    keep: str
    x: Axis
    y: Axis
    before: Point | None
    points: Sequence[Point]
    goal: str
    width: int = WIDTH
    height: int = HEIGHT


def plots(evaluation: Evaluation) -> Iterator[Plot]:
    """A plot for each pair of metrics of which two erasers or more have both."""
    series, erasers = series_of(evaluation), erasers_of(evaluation)
    for forget, keep in trade_offs(evaluation.metrics):
        names = [name for name, result in erasers.items() if {forget, keep} <= result.metrics.keys()]
        if len(names) < 2:
            continue
        rates = [(series[name], erasers[name].metrics[keep], erasers[name].metrics[forget]) for name in names]
        x = _axis([rest.low for _, rest, _ in rates], LEFT, SIDE_X)
        y = _axis([gone.low for _, _, gone in rates], TOP + SIDE_Y, -SIDE_Y)
        points = [_point(of, rest, gone, x, y) for of, rest, gone in rates]
        pasts = {(before_of(keep, name, evaluation), before_of(forget, name, evaluation)) for name in names}
        (rest, gone) = next(iter(pasts)) if len(pasts) == 1 else (None, None)
        before: list[Point] = []
        if rest and gone and rest.value >= x.floor and gone.value >= y.floor:
            before = [_point(series[BASE], rest, gone, x, y)]
        goal = _goal(rest, x, y) if rest else ""
        marks = _enlarged([*before, *points])
        yield Plot(forget, keep, x, y, marks[0] if before else None, marks[len(before) :], goal)


def _axis(lows: Sequence[float], start: float, length: float) -> Axis:
    floor, step = next(scale for scale in SCALES if scale[0] <= max(min(lows), 0))
    return Axis(floor, step, start, length)


def _point(of: Series, keep: Measured, forget: Measured, x: Axis, y: Axis) -> Point:
    at_x, at_y = x.at(keep.value), y.at(forget.value)
    across = f"M{x.at(keep.low)} {at_y}H{x.at(keep.high)}"
    return Point(of, keep, forget, at_x, at_y, 1.0, f"{across}M{at_x} {y.at(forget.low)}V{y.at(forget.high)}")


def _enlarged(points: Sequence[Point]) -> list[Point]:
    """The points, with those enlarged that later ones would hide."""
    return [
        replace(point, size=1 + 0.6 * sum(max(abs(p.x - point.x), abs(p.y - point.y)) < NEAR for p in points[k + 1 :]))
        for k, point in enumerate(points)
    ]


def _goal(keep: Measured, x: Axis, y: Axis) -> str:
    left, bottom = x.at(keep.value - HARM), y.at(FORGOTTEN)
    return f"M{left} {bottom}V{y.at(1)}H{x.at(1)}V{bottom}Z"
