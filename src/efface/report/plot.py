"""The trade-off of several erasers: how much is forgotten against how much is kept, with intervals; inline SVG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from efface.metrics.rates import Rate
from efface.protocols import Evaluation
from efface.report.rates import before_of
from efface.report.series import Series, erasers_of, series_of
from efface.report.verdict import AXES, FORGOTTEN, HARM

#: The view box: its size, and the square in it that is plotted on.
WIDTH, HEIGHT = 400, 360
LEFT, TOP, SIDE_X, SIDE_Y = 40, 28, 350, 290
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Point:
    """An eraser, or what was before it, with its intervals, in the view box's units."""

    of: Series
    keep: Rate
    forget: Rate

    @property
    def x(self) -> float:
        """Where it stands."""
        return across(self.keep.value)

    @property
    def y(self) -> float:
        """Where it stands."""
        return up(self.forget.value)

    @property
    def whiskers(self) -> str:
        """The path of both intervals."""
        left, right = across(self.keep.low), across(self.keep.high)
        return f"M{left} {self.y}H{right}M{self.x} {up(self.forget.low)}V{up(self.forget.high)}"


@dataclass(frozen=True)
class Plot:
    """One trade-off: the metrics' names, the erasers, what was before, and from where on all is well."""

    forget: str
    keep: str
    before: Sequence[Point]
    points: Sequence[Point]
    goal: str

    ticks: Sequence[float] = TICKS
    width: int = WIDTH
    height: int = HEIGHT


def plots(evaluation: Evaluation) -> Iterator[Plot]:
    """A plot for each pair of metrics that two erasers or more have."""
    series = series_of(evaluation)
    for forget, keep in AXES:
        points, before = list[Point](), dict[tuple[Rate, Rate], Point]()
        for name, result in erasers_of(evaluation).items():
            y, x = result.metrics.get(forget), result.metrics.get(keep)
            if not (isinstance(x, Rate) and isinstance(y, Rate)):
                continue
            points.append(Point(series[name], x, y))
            was = before_of(forget, name, evaluation), before_of(keep, name, evaluation)
            if isinstance(was[0], Rate) and isinstance(was[1], Rate):
                before[was[0], was[1]] = Point(series["base"], was[1], was[0])
        if len(points) > 1:
            yield Plot(forget, keep, list(before.values()), points, _goal(list(before.values())))


def across(share: float) -> float:
    """Where a share stands from left to right."""
    return round(LEFT + SIDE_X * min(max(share, 0.0), 1.0), 1)


def up(share: float) -> float:
    """Where a share stands from the top down."""
    return round(TOP + SIDE_Y * (1 - min(max(share, 0.0), 1.0)), 1)


def _goal(before: Sequence[Point]) -> str:
    """The corner where the concept is forgotten and the rest is kept, where that is the same for all erasers."""
    if len(before) != 1:
        return ""
    left, bottom = across(before[0].keep.value - HARM), up(FORGOTTEN)
    return f"M{left} {bottom}V{up(1)}H{across(1)}V{bottom}Z"
