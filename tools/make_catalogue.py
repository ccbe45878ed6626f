"""Writes src/efface/cli/catalogue.json: what `efface methods`, `judges`, `attacks`, `protocols` and `models` list.

python tools/make_catalogue.py
"""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from efface.cli.entries import registry_and_row
from efface.models.open import BUILT_IN, FAMILIES

FILE = Path(__file__).resolve().parents[1] / "src" / "efface" / "cli" / "catalogue.json"


def catalogue() -> dict[str, Any]:
    """The rows of all built-in entries."""
    content: dict[str, Any] = {}
    for kind in ("methods", "judges", "attacks", "protocols"):
        registry, row = registry_and_row(kind)
        foreign = {point.name for point in entry_points(group=registry.group)}
        content[kind] = [row(registry.get(name)) for name in registry.names() if name not in foreign]
    content["models"] = [_embedded(name) for name in BUILT_IN]
    content["pipelines"] = list(FAMILIES)
    return content


def _embedded(name: str) -> dict[str, Any]:
    """The name, the world and the size of an embedded model."""
    world = BUILT_IN[name].world()
    parts = (path for path in BUILT_IN[name].folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {
        "name": name,
        "objects": [thing.name for thing in world.objects],
        "styles": [style.name for style in world.styles],
        "bytes": sum(path.stat().st_size for path in parts),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(catalogue(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
