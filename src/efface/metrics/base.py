"""What a metric gives: a value with its interval and what extracted its features; tables that never mix extractors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from efface.errors import BadInput


@dataclass(frozen=True)
class Value:
    """A score or a distance.

    Attributes:
        value: The number.
        low: Lower end of its 95% interval.
        high: Upper end.
        n: Images measured; of a distance, images of the set that is measured, not of the reference.
        extractor: Version of what made features of the images; values of two extractors cannot be compared.
        note: What else has to be said beside the number; may be empty.
    """

    value: float
    low: float
    high: float
    n: int
    extractor: str
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What the JSON answers carry."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}], n={self.n}, {self.extractor}"


@dataclass(frozen=True)
class Measured:
    """A score or a distance of one eraser's images.

    Attributes:
        value: Of its images.
        base: The same of the unedited model's images on the same prompts and seeds; `None` where these are what is
            measured against.
        change: The first minus the second, paired by prompt and seed; `None` where there is no second.
    """

    value: Value
    base: Value | None = None
    change: Value | None = None


@dataclass(frozen=True)
class MetricEntry:
    """A metric in the registry.

    Attributes:
        name: Its flat name in results.
        summary: One line for listings.
        paper: Where it comes from.
        over: What it compares.
        better: Which way is better for the images that an eraser should leave alone.
        measure: Its function; see there for the arguments.
    """

    name: str
    summary: str
    paper: str
    over: Literal["two sets", "images and texts", "pairs of images"]
    better: Literal["higher", "lower"]
    measure: Callable[..., Value]


@dataclass(frozen=True)
class Table:
    """Values of several erasers side by side, all of one extractor.

    Attributes:
        rows: Eraser -> metric -> value.

    Raises:
        BadInput: The values come from several extractors; `split` makes a table for each.
    """

    rows: Mapping[str, Mapping[str, Value]]

    def __post_init__(self) -> None:
        if len(found := self._extractors(self.rows)) > 1:
            raise BadInput(
                f"One table cannot mix the feature extractors {', '.join(found)}: make a table for each of them."
            )

    @property
    def extractor(self) -> str:
        """The one extractor of all values; empty without any."""
        return next(iter(self._extractors(self.rows)), "")

    @classmethod
    def split(cls, rows: Mapping[str, Mapping[str, Value]]) -> list[Table]:
        """One table for each extractor, every eraser in each that has a value of it."""
        tables: list[Table] = []
        for extractor in cls._extractors(rows):
            kept = {
                name: {metric: value for metric, value in row.items() if value.extractor == extractor}
                for name, row in rows.items()
            }
            tables.append(cls({name: row for name, row in kept.items() if row}))
        return tables

    @staticmethod
    def _extractors(rows: Mapping[str, Mapping[str, Value]]) -> list[str]:
        return list(dict.fromkeys(value.extractor for row in rows.values() for value in row.values()))

    def as_dict(self) -> dict[str, Any]:
        """What JSON carries."""
        rows = {name: {metric: value.as_dict() for metric, value in row.items()} for name, row in self.rows.items()}
        return {"extractor": self.extractor, "erasers": rows}
