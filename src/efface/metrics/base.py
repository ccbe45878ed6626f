"""The one type of number (`Measured`), the registry entry of a metric, and tables of one feature extractor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from efface.errors import BadInput

#: A share of images or the difference of two shares; or any other number of images: a mean score, a distance, a count.
Kind = Literal["rate", "score"]


@dataclass(frozen=True)
class Measured:
    """A number with its 95% interval.

    Attributes:
        value: The number.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of images; of a distance, of the set that is measured, without the reference; of a difference, of
            pairs of images.
        kind: `rate` or `score`.
        extractor: Of a score, the version of what made the features. Scores of two extractors cannot be compared.
        note: Of a score, a remark to show beside it.
        p: Of a comparison of two erasers, the p-value.
        test: The name of the statistical test behind `p`.
    """

    value: float
    low: float
    high: float
    n: int
    kind: Kind = "rate"
    extractor: str = ""
    note: str = ""
    p: float | None = None
    test: str = ""

    @property
    def is_share(self) -> bool:
        """Whether the number is a rate in [0, 1], which can be shown in percent of a whole."""
        return self.kind == "rate" and 0 <= self.value <= 1

    def as_dict(self) -> dict[str, Any]:
        """The number as JSON: a rate without extractor and note, a comparison with p-value and test."""
        keys = ["value", "low", "high", "n"]
        if self.test:
            keys += ["p", "test"]
        elif self.kind == "score":
            keys += ["extractor", "note"]
        values = asdict(self)
        return {key: values[key] for key in keys}

    def __str__(self) -> str:
        if self.test:
            interval = f"{self.value:+.4g} [{self.low:+.4g}, {self.high:+.4g}]"
            return f"{interval}, p={self.p:.3g}, n={self.n}, {self.test}"
        if self.kind == "rate":
            return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}], n={self.n}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}], n={self.n}, {self.extractor}"


@dataclass(frozen=True)
class MetricEntry:
    """A metric in the registry.

    Attributes:
        name: The metric's flat name in results.
        summary: One line for listings.
        paper: Link to the paper.
        over: What the metric compares.
        better: Which direction is better for images that an eraser should leave alone.
        measure: The metric's function; its docstring lists the arguments.
    """

    name: str
    summary: str
    paper: str
    over: Literal["two sets", "images and texts", "pairs of images"]
    better: Literal["higher", "lower"]
    measure: Callable[..., Measured]


@dataclass(frozen=True)
class Table:
    """Scores of several erasers side by side, all of one extractor.

    Attributes:
        rows: Eraser -> metric -> score.

    Raises:
        BadInput: The scores come from several extractors; `split` makes a table for each.
    """

    rows: Mapping[str, Mapping[str, Measured]]

    def __post_init__(self) -> None:
        extractors = self._extractors(self.rows)
        if len(extractors) > 1:
            raise BadInput(
                f"One table cannot mix the feature extractors {', '.join(extractors)}: make a table for each of them."
            )

    @property
    def extractor(self) -> str:
        """The extractor of all scores; empty for an empty table."""
        return next(iter(self._extractors(self.rows)), "")

    @classmethod
    def split(cls, rows: Mapping[str, Mapping[str, Measured]]) -> list[Table]:
        """One table for each extractor, with every eraser that has a score of it.

        Args:
            rows: Eraser -> metric -> score.
        """
        tables: list[Table] = []
        for extractor in cls._extractors(rows):
            scores = {
                name: {metric: score for metric, score in row.items() if score.extractor == extractor}
                for name, row in rows.items()
            }
            tables.append(cls({name: row for name, row in scores.items() if row}))
        return tables

    @staticmethod
    def _extractors(rows: Mapping[str, Mapping[str, Measured]]) -> list[str]:
        return list(dict.fromkeys(score.extractor for row in rows.values() for score in row.values()))

    def as_dict(self) -> dict[str, Any]:
        """The table as JSON."""
        rows = {name: {metric: score.as_dict() for metric, score in row.items()} for name, row in self.rows.items()}
        return {"extractor": self.extractor, "erasers": rows}
