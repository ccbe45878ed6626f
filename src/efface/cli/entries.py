"""The rows of `efface methods` and the other lists, from the entries of the registries."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efface.attacks import Attack
    from efface.judges import JudgeEntry
    from efface.methods import Method
    from efface.protocols.base import Protocol
    from efface.registry import Registry

#: The row of an entry: the content of the list, ready for JSON.
Row = dict[str, Any]


def registry_and_row(kind: str) -> tuple[Registry[Any], Callable[[Any], Row]]:
    """The registry of a list, and the function that makes a row of one of its entries.

    Args:
        kind: methods, judges, attacks or protocols.
    """
    if kind == "methods":
        from efface.methods import METHODS

        return METHODS, method_row
    if kind == "judges":
        from efface.judges import JUDGES

        return JUDGES, judge_row
    if kind == "attacks":
        from efface.attacks import ATTACKS

        return ATTACKS, attack_row
    from efface.protocols import PROTOCOLS

    return PROTOCOLS, protocol_row


def method_row(entry: Method) -> Row:
    """The row of a method."""
    return {
        "name": entry.name,
        "summary": entry.summary,
        "edit": entry.edit,
        "paper": entry.paper,
        "repository": entry.repository,
        "after": entry.after,
        "defaults": entry.config().model_dump(mode="json"),
        "explained": explained(entry.config),
    }


def judge_row(entry: JudgeEntry) -> Row:
    """The row of a judge."""
    return {"name": entry.name, "summary": entry.summary, "source": entry.source}


def attack_row(entry: Attack) -> Row:
    """The row of an attack."""
    from efface.attacks import DEFAULT

    return {
        "name": entry.name,
        "summary": entry.summary,
        "settings": entry.config().model_dump(mode="json"),
        "paper": entry.paper,
        "default": entry.name in DEFAULT,
        "explained": explained(entry.config),
    }


def protocol_row(entry: Protocol) -> Row:
    """The row of a protocol."""
    return {
        "name": entry.name,
        "summary": entry.summary,
        "metrics": [metric.name for metric in entry.metrics],
        "paper": entry.paper,
        "n": entry.n,
        "published": entry.published and asdict(entry.published),
        "published_as": str(entry.published) if entry.published else None,
        "defaults": entry.config().model_dump(mode="json") if entry.config else {},
        "explained": explained(entry.config) if entry.config else {},
    }


def explained(config: type) -> dict[str, str]:
    """What each setting of a config means, from the docstrings of the class and of those that it extends."""
    meanings: dict[str, str] = {}
    for cls in reversed(config.__mro__[:-1]):
        _, _, attributes = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("Attributes:\n")
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
            meanings[name] = " ".join(text.split())
    fields: dict[str, Any] = getattr(config, "model_fields", {})
    return {name: meanings[name] for name in fields if name in meanings}
