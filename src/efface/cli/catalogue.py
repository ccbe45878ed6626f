"""The rows of `efface methods`, `judges`, `attacks`, `protocols` and `models`, without importing what they list.

`catalogue.json` has the rows of the built-in entries; `python tools/make_catalogue.py` writes it, and a test compares
it with the registries. Only plug-ins of other packages are imported.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from typing import Any

from efface.errors import UnknownName


def built_in() -> dict[str, Any]:
    """The content of `catalogue.json`."""
    return json.loads((files("efface.cli") / "catalogue.json").read_text(encoding="utf-8"))


def rows_of(kind: str, name: str | None = None) -> list[dict[str, Any]]:
    """The rows of a list, by name.

    Args:
        kind: methods, judges, attacks or protocols.
        name: The only entry to list.

    Raises:
        UnknownName: There is no such entry.
    """
    rows = {row["name"]: row for row in built_in()[kind]}
    names = {point.name for point in entry_points(group=f"efface.{kind}")} - rows.keys()
    if names or f"efface.{kind}" in sys.modules:  # other packages' entries, and those that were registered in Python
        from efface.cli.entries import registry_and_row

        registry, row = registry_and_row(kind)
        rows |= {other: row(registry.get(other)) for other in registry.names() if other not in rows}
    if name is not None and name not in rows:
        raise UnknownName(f"Unknown {kind.removesuffix('s')} '{name}'; there is: {', '.join(sorted(rows))}.")
    return [rows[one] for one in sorted(rows) if name in (None, one)]
