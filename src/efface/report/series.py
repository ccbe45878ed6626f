"""Who is who on the page: each eraser has one name and one colour, in every chart and beneath every picture."""

from collections.abc import Mapping
from dataclasses import dataclass

from efface.protocols import BASE, Evaluation, Result

COLOURS = 6


@dataclass(frozen=True)
class Series:
    """The unedited model or an eraser.

    Attributes:
        name: The key in the evaluation.
        title: What the page calls it.
        mark: The class that gives it its colour and its shape in the plot.
    """

    name: str
    title: str
    mark: str


def erasers_of(evaluation: Evaluation) -> dict[str, Result]:
    """The results without the unedited model's."""
    return {name: result for name, result in evaluation.results.items() if name != BASE}


def series_of(evaluation: Evaluation) -> Mapping[str, Series]:
    """By name, the unedited model first. A single eraser is simply what comes after."""
    erasers = list(erasers_of(evaluation))
    return {
        BASE: Series(BASE, "before", "base"),
        **{
            name: Series(name, name if len(erasers) > 1 else "after", f"s{index % COLOURS}")
            for index, name in enumerate(erasers)
        },
    }
