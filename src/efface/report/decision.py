"""Whether a rate is known well enough for a verdict, and how many more images would decide it.

Limits divide rates into grades. A rate is decided if its 95% interval reaches at most `MARGIN` beyond the limits of its
own grade. With the same rate, enough images always decide: also next to a limit, where the margin is on both sides.

An interval of resampled prompts is as wide as Wilson's of some number of independent draws. The rates of single
concepts, which have no interval in results, get Wilson's with the same ratio of draws to images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from efface.metrics.base import Measured
from efface.metrics.rates import wilson_interval

#: How far an interval may reach beyond the limits of a grade.
MARGIN = 0.05
#: The lowest forget rate at which a concept counts as forgotten, and as mostly forgotten.
FORGOTTEN, MOSTLY = 0.95, 0.8
#: How far the retain rate may fall before the rest counts as damaged.
HARM = 0.03


@dataclass(frozen=True)
class Decision:
    """A rate as a grade.

    Attributes:
        grade: Of forgetting: 2 forgotten, 1 mostly, 0 not. Of retention: 1 retained, 0 damaged.
        more: The factor by which more images of the same rate would decide the grade; 1 if it is decided.
    """

    grade: int
    more: float

    @property
    def decided(self) -> bool:
        """Whether the interval allows no other grade."""
        return self.more <= 1


def forgetting(rate: Measured) -> Decision:
    """The grade of a forget rate."""
    value = round(rate.value, 9)  # 57 of 60 are 95%
    grade = 2 if value >= FORGOTTEN else int(value >= MOSTLY)
    least, most = ((0.0, MOSTLY), (MOSTLY, FORGOTTEN), (FORGOTTEN, 1.0))[grade]
    more = _more(rate, least - MARGIN, most + MARGIN)
    if more > 1:
        # Wilson's interval shrinks faster than by the square root at rates of 0 and 1, and slower beside them.
        more = max(1.01, _draws_needed(value, least, most) / draws_behind(rate))
    return Decision(grade, more)


def retention(change: Measured) -> Decision:
    """The grade of the change of the retain rate."""
    grade = int(change.value >= -HARM)
    return Decision(grade, _more(change, *((-HARM - MARGIN, 2.0) if grade else (-2.0, -HARM + MARGIN))))


def _more(rate: Measured, low: float, high: float) -> float:
    """The factor of images at which an interval that shrinks by the square root lies between two bounds."""
    below, above = (rate.value - rate.low) / (rate.value - low), (rate.high - rate.value) / (high - rate.value)
    return max(1.0, round(below**2, 4), round(above**2, 4))


def _draws_needed(rate: float, least: float, most: float) -> float:
    """The number of independent draws at which the interval of a rate is at most `MARGIN` outside of two limits.

    Args:
        rate: The rate, between the limits.
        least: The lower limit.
        most: The upper limit.
    """

    def suffice(draws: float) -> bool:
        low, high = wilson_interval(rate, draws)
        return low >= least - MARGIN and high <= most + MARGIN

    many = 1.0
    while not suffice(many):
        many *= 2
    few = many / 2
    for _ in range(60):
        middle = (few + many) / 2
        few, many = (few, middle) if suffice(middle) else (middle, many)
    return many


def draws_behind(rate: Measured) -> float:
    """The number of independent draws whose interval is as wide as that of a rate; at most one for each image."""
    few, many = 1e-3, float(rate.n)
    for _ in range(60):
        middle = math.sqrt(few * many)
        low, high = wilson_interval(rate.value, middle)
        few, many = (middle, many) if high - low > rate.high - rate.low else (few, middle)
    return many


def about(images: float) -> int:
    """A number of images, rounded up to two digits."""
    rounded = math.ceil(images - 1e-9)
    unit = 10 ** max(0, len(str(rounded)) - 2)
    return -(-rounded // unit) * unit
