"""What it takes to get the numbers again, in one line and in full."""

from collections.abc import Iterator, Mapping
from typing import Any

from efface.report.words import text


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested record as rows of a table."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", text(value)


def summary(tree: Mapping[str, Any]) -> list[str]:
    """The settings that decide most, where they are known."""
    sampling = _record(tree, "sampling")
    said = [
        ("model", text(tree.get("model", ""))),
        ("sampler", text(sampling.get("sampler", ""))),
        ("steps", text(sampling.get("steps", ""))),
        ("guidance", text(sampling.get("guidance", ""))),
        ("images a concept", text(tree.get("n", ""))),
        ("seed", text(tree.get("seed", ""))),
        ("efface", text(_record(tree, "versions").get("efface", ""))),
    ]
    return [f"{name} {value}" for name, value in said if value]


def how(tree: Mapping[str, Any], name: str) -> str:
    """An eraser's method."""
    return text(_record(_record(tree, "erasers"), name).get("method", ""))


def _record(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key, {})
    return value if isinstance(value, Mapping) else {}
