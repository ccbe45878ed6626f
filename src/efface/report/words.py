"""Numbers and lists as people read them."""

from collections.abc import Mapping, Sequence
from typing import Any

from efface.metrics.base import Measured

#: Items of a list that are shown one by one.
LISTED = 50


def listed(names: Sequence[str], limit: int = 3) -> str:
    """Names as a sentence has them; beyond `limit`, the rest is counted."""
    shown = [f"“{name}”" for name in names[:limit]]
    if len(names) > limit:
        shown.append(f"{len(names) - limit} more")
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def percent(share: float) -> str:
    """A share as people read it: one decimal, none where it is whole."""
    return f"{100 * share:.1f}%".replace(".0%", "%")


def bounds(rate: Measured) -> str:
    """A rate's 95% interval."""
    return f"{percent(rate.low)} to {percent(rate.high)}"


def span(rate: Measured) -> str:
    """A rate's 95% interval where there is little room."""
    return f"{percent(rate.low).rstrip('%')}–{percent(rate.high)}"


def interval(rate: Measured | None) -> str:
    """A rate with its interval and count; a dash where there is none."""
    if rate is None:
        return "–"
    return f"{percent(rate.value)} ({bounds(rate)}, n={rate.n})"


def points(change: Measured | None) -> str:
    """A difference of rates in percentage points, with its interval; a dash where there is none."""
    if change is None:
        return "–"
    value, low, high = (f"{100 * share:+.1f}".replace("-", "−") for share in (change.value, change.low, change.high))
    return f"{value} points, {low} to {high}"


def chance(p: float | None) -> str:
    """A p-value, to two digits; a dash where there is none."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def number(value: float) -> str:
    """A number that is no share, to four digits."""
    return f"{value:.4g}".replace("-", "−")


def signed(value: float) -> str:
    """A difference of numbers that are no shares."""
    return f"{value:+.4g}".replace("-", "−")


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count and its noun: "1 image", "2 images"."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def text(value: Any) -> str:
    """A value of the provenance: what is empty as a dash, long lists cut short, a record by what it says."""
    if value is None or value == "":
        return "–"
    if isinstance(value, Mapping):
        said = [f"{key} {text(item)}" for key, item in value.items() if item not in (None, "", [], (), {})]
        return ", ".join(said) or "–"
    if isinstance(value, list | tuple):
        shown = [text(item) for item in value[:LISTED]]
        return "; ".join(shown if len(value) <= LISTED else [*shown, f"and {len(value) - LISTED} more"]) or "–"
    return str(value)
