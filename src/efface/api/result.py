"""The base of the result objects, and an eraser as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser


@dataclass(frozen=True)
class VerbResult:
    """The result of a verb: its fields are the keys of the object that the command prints with `--json`."""

    def to_json(self) -> dict[str, Any]:
        """The object that the command prints with `--json`."""
        return {field.name: _json(getattr(self, field.name)) for field in fields(self)}


def eraser_json(eraser: Eraser, path: Path | None) -> dict[str, Any]:
    """The keys that `--json` prints for every eraser.

    Args:
        eraser: The eraser.
        path: Its file; None for an eraser in memory.
    """
    return {
        "eraser": None if path is None else str(path),
        "method": eraser.method,
        "concepts": list(eraser.concepts),
        "kind_of_edit": eraser.kind_of_edit,
        "rank": eraser.rank,
        "bytes": eraser.nbytes,
    }


def sources_json(eraser: Eraser) -> dict[str, dict[str, str]]:
    """Where the guide of each concept and each setting come from: user, recommended or published."""
    settings, sources = (eraser.provenance.get(key, {}) for key in ("settings", "settings_from"))
    return {
        "guide_from": dict(eraser.provenance.get("guide_from", {})),
        "settings_from": {name: source for name, source in sources.items() if name in settings},
    }


def _json(value: object) -> object:
    """A value as JSON: paths become text, dataclasses and mappings objects, sequences lists."""
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value):
        return {field.name: _json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _json(item) for name, item in cast(Mapping[str, object], value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json(item) for item in cast(Sequence[object], value)]
    return value
