"""The words of a report: names of models, numbers with intervals, lists, and records such as the provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from efface.metrics.base import Measured
from efface.protocols import BASE, Evaluation, Result

#: Number of items of a list that are shown one by one.
LISTED = 50
#: Number of colours of erasers.
COLOURS = 6
#: A record with more values than this is grouped by value if many values are equal.
MANY = 6


@dataclass(frozen=True)
class Series:
    """The unedited model or an eraser: one name and one colour in every chart and under every picture.

    Attributes:
        name: The key in the evaluation.
        title: The name on the page.
        mark: The CSS class of its colour and of its shape in the plot.
    """

    name: str
    title: str
    mark: str


def erasers_of(evaluation: Evaluation) -> dict[str, Result]:
    """The results without the unedited model's."""
    return {name: result for name, result in evaluation.erasers.items() if name != BASE}


def series_of(evaluation: Evaluation) -> Mapping[str, Series]:
    """By name, the unedited model first. A single eraser is called "after"."""
    erasers = list(erasers_of(evaluation))
    return {
        BASE: Series(BASE, "before", "base"),
        **{
            name: Series(name, name if len(erasers) > 1 else "after", f"s{index % COLOURS}")
            for index, name in enumerate(erasers)
        },
    }


def listed(names: Sequence[str], limit: int = 3) -> str:
    """Names as in a sentence; beyond `limit`, the rest is counted."""
    shown = [f"“{name}”" for name in names[:limit]]
    if len(names) > limit:
        shown.append(f"{len(names) - limit} more")
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count and its noun: "1 image", "2 images".

    Args:
        count: The count.
        one: The noun in the singular.
        many: The noun in the plural; by default with an s.
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """A share in percent: one decimal, none for whole numbers."""
    return f"{100 * share:.1f}%".replace(".0%", "%")


def bounds(rate: Measured) -> str:
    """A rate's 95% interval."""
    return f"{percent(rate.low)} to {percent(rate.high)}"


def span(rate: Measured) -> str:
    """A rate's 95% interval, in short."""
    return f"{percent(rate.low).rstrip('%')}–{percent(rate.high)}"


def interval(rate: Measured | None) -> str:
    """A rate with its interval and count; a dash for None."""
    if rate is None:
        return "–"
    return f"{percent(rate.value)} ({bounds(rate)}, n={rate.n})"


def points(change: Measured | None) -> str:
    """A difference of rates in percentage points, with its interval; a dash for None."""
    if change is None:
        return "–"
    value, low, high = (f"{100 * share:+.1f}".replace("-", "−") for share in (change.value, change.low, change.high))
    return f"{value} points, {low} to {high}"


def chance(p: float | None) -> str:
    """A p-value, to two digits; a dash for None."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def number(value: float) -> str:
    """A score or distance, to four digits."""
    return f"{value:.4g}".replace("-", "−")


def signed(value: float) -> str:
    """A difference of scores or distances."""
    return f"{value:+.4g}".replace("-", "−")


def text(value: Any) -> str:
    """A value of the provenance: empty ones as a dash, long lists cut short, records without their empty entries."""
    if value is None or value == "":
        return "–"
    if isinstance(value, Mapping):
        entries = [f"{key} {text(item)}" for key, item in value.items() if item not in (None, "", [], (), {})]
        return ", ".join(entries) or "–"
    if isinstance(value, list | tuple):
        shown = [text(item) for item in value[:LISTED]]
        return "; ".join(shown if len(value) <= LISTED else [*shown, f"and {len(value) - LISTED} more"]) or "–"
    return str(value)


def provenance_rows(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The provenance as rows of a table; a threshold that forty concepts share is one row."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if not isinstance(value, Mapping) or not value:
            yield name, text(value or None if isinstance(value, Mapping) else value)
        elif keys := _keys_by_value(value):
            yield from ((name, f"{shown}: {text(of)}") for shown, of in keys.items())
        else:
            yield from provenance_rows(value, f"{name}.")


def provenance_summary(tree: Mapping[str, Any]) -> list[str]:
    """The settings that decide most, without unknown ones."""
    model, sampling, versions = (_record(tree, key) for key in ("model", "sampling", "versions"))
    entries = [
        ("model", model.get("name")),
        ("sampler", sampling.get("sampler")),
        ("steps", sampling.get("steps")),
        ("guidance", sampling.get("guidance")),
        ("n", tree.get("n")),
        ("seed", tree.get("seed")),
        ("efface", versions.get("efface")),
    ]
    return [f"{name} {value}" for name, value in entries if value is not None]


def method_of(tree: Mapping[str, Any], name: str) -> str:
    """The method of an eraser; empty if it is unknown."""
    return str(_record(_record(tree, "erasers"), name).get("method", ""))


def _keys_by_value(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """The keys of each value, for many keys of few values."""
    if len(record) <= MANY or any(isinstance(value, Mapping | list | tuple) for value in record.values()):
        return {}
    keys: dict[str, list[str]] = {}
    for key, value in record.items():
        keys.setdefault(text(value), []).append(key)
    return keys if len(keys) <= len(record) // 3 else {}


def _record(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key, {})
    return value if isinstance(value, Mapping) else {}
