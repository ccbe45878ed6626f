"""The trade-off of several erasers: how much is forgotten against how much is kept, with intervals; inline SVG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from efface.metrics.base import Measured
from efface.protocols import BASE, Evaluation
from efface.report.rates import before_of
from efface.report.series import Series, erasers_of, series_of
from efface.report.verdict import AXES, FORGOTTEN, HARM

#: The view box: its size, and the square in it that is plotted on.
WIDTH, HEIGHT = 400, 360
LEFT, TOP, SIDE_X, SIDE_Y = 40, 28, 350, 290
#: Where an axis may begin, so that erasers that are all good can be told apart, with its marks up to 1.
SCALES = ((0.9, 0.02), (0.75, 0.05), (0.5, 0.1), (0.25, 0.25), (0.0, 0.25))
#: Marks nearer than this hide one another.
NEAR = 9


@dataclass(frozen=True)
class Axis:
    """An axis from `floor` to 1, in the view box's units from `start` over `length` (negative upwards)."""

    floor: float
    step: float
    start: float
    length: float

    def at(self, share: float) -> float:
        """Where a share stands; what is below the floor, on it."""
        return round(self.start + self.length * (min(max(share, self.floor), 1.0) - self.floor) / (1 - self.floor), 1)

    @property
    def ticks(self) -> list[float]:
        """Its marks, as shares."""
        return [round(self.floor + k * self.step, 2) for k in range(round((1 - self.floor) / self.step) + 1)]


@dataclass(frozen=True)
class Point:
    """An eraser, or what was before it.

    Attributes:
        of: Whose.
        keep: How much is kept.
        forget: How much is forgotten.
        x: Where it stands.
        y: Where it stands.
        size: Larger than 1 where a later mark would hide it.
        whiskers: The path of both intervals.
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
        before: The unedited model, where that is one point and within the axes.
        points: The erasers.
        goal: The path of the corner where the concept is forgotten and the rest is kept; empty where erasers differ in
            what was before.
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
    """A plot for each pair of metrics that two erasers or more have."""
    series, erasers = series_of(evaluation), erasers_of(evaluation)
    for forget, keep in AXES:
        names = [name for name, result in erasers.items() if {forget, keep} <= result.metrics.keys()]
        if len(names) < 2:
            continue
        rates = [(series[name], erasers[name].metrics[keep], erasers[name].metrics[forget]) for name in names]
        x = _axis([kept.low for _, kept, _ in rates], LEFT, SIDE_X)
        y = _axis([gone.low for _, _, gone in rates], TOP + SIDE_Y, -SIDE_Y)
        points = [_point(of, kept, gone, x, y) for of, kept, gone in rates]
        pasts = {(before_of(keep, name, evaluation), before_of(forget, name, evaluation)) for name in names}
        (kept, gone) = next(iter(pasts)) if len(pasts) == 1 else (None, None)
        before: list[Point] = []
        if kept and gone and kept.value >= x.floor and gone.value >= y.floor:
            before = [_point(series[BASE], kept, gone, x, y)]
        goal = _goal(kept, x, y) if kept else ""
        drawn = _apart([*before, *points])
        yield Plot(forget, keep, x, y, drawn[0] if before else None, drawn[len(before) :], goal)


def _axis(lows: Sequence[float], start: float, length: float) -> Axis:
    floor, step = next(scale for scale in SCALES if scale[0] <= max(min(lows), 0))
    return Axis(floor, step, start, length)


def _point(of: Series, keep: Measured, forget: Measured, x: Axis, y: Axis) -> Point:
    at_x, at_y = x.at(keep.value), y.at(forget.value)
    across = f"M{x.at(keep.low)} {at_y}H{x.at(keep.high)}"
    return Point(of, keep, forget, at_x, at_y, 1.0, f"{across}M{at_x} {y.at(forget.low)}V{y.at(forget.high)}")


def _apart(points: Sequence[Point]) -> list[Point]:
    """Marks that would be hidden by later ones stand out beneath them."""
    return [
        replace(point, size=1 + 0.6 * sum(max(abs(p.x - point.x), abs(p.y - point.y)) < NEAR for p in points[k + 1 :]))
        for k, point in enumerate(points)
    ]


def _goal(keep: Measured, x: Axis, y: Axis) -> str:
    left, bottom = x.at(keep.value - HARM), y.at(FORGOTTEN)
    return f"M{left} {bottom}V{y.at(1)}H{x.at(1)}V{bottom}Z"
