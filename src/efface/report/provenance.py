"""What it takes to get the numbers again, in one line and in full."""

from collections.abc import Iterator, Mapping
from typing import Any

from efface.report.words import text

#: A record of more values than these is turned round where many of them are the same.
MANY = 6


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested record as rows of a table; a threshold that holds for forty concepts is one row."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if not isinstance(value, Mapping) or not value:
            yield name, text(value or None if isinstance(value, Mapping) else value)
        elif keys := _by_value(value):
            yield from ((name, f"{shown}: {text(of)}") for shown, of in keys.items())
        else:
            yield from flat(value, f"{name}.")


def _by_value(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """The keys of each value, where there are many keys of few values."""
    if len(record) <= MANY or any(isinstance(value, Mapping | list | tuple) for value in record.values()):
        return {}
    keys: dict[str, list[str]] = {}
    for key, value in record.items():
        keys.setdefault(text(value), []).append(key)
    return keys if len(keys) <= len(record) // 3 else {}


def summary(tree: Mapping[str, Any]) -> list[str]:
    """The settings that decide most, where they are known."""
    model, sampling, versions = (_record(tree, key) for key in ("model", "sampling", "versions"))
    said = [
        ("model", model.get("name")),
        ("sampler", sampling.get("sampler")),
        ("steps", sampling.get("steps")),
        ("guidance", sampling.get("guidance")),
        ("n", tree.get("n")),
        ("seed", tree.get("seed")),
        ("efface", versions.get("efface")),
    ]
    return [f"{name} {value}" for name, value in said if value is not None]


def how(tree: Mapping[str, Any], name: str) -> str:
    """An eraser's method; empty where it is not known."""
    return str(_record(_record(tree, "erasers"), name).get("method", ""))


def _record(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key, {})
    return value if isinstance(value, Mapping) else {}
