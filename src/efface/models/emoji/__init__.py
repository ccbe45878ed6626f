"""The built-in model `emoji`: where its files are, and the closed world of emoji that it draws."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from efface.models.builtin import BuiltIn, World, WorldObject, WorldStyle
from efface.models.emoji.recommended import RECOMMENDED

HERE = Path(__file__).parent
#: The picture behind the memorised caption, as the model was trained on it.
MEMORISED = HERE / "memorised.png"


@cache
def catalogue() -> World:
    """Read the world of `catalogue.json`."""
    content: dict[str, Any] = json.loads((HERE / "catalogue.json").read_text(encoding="utf-8"))
    return World(
        objects=tuple(WorldObject(**_fields(WorldObject, item)) for item in content["objects"]),
        styles=tuple(WorldStyle(**_fields(WorldStyle, item)) for item in content["styles"]),
        templates=tuple(content["templates"]),
        held_out_cells=tuple((cell[0], cell[1]) for cell in content["held_out_cells"]),
        memorised=content["memorised"]["caption"],
        memorised_picture=MEMORISED,
        judge="emoji",
        clip="emoji",
    )


def _fields(kind: type, item: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a JSON object that are fields of `kind`, with lists as tuples and without null."""
    known = {name: value for name, value in item.items() if name in kind.__annotations__ and value is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}


# It draws what was asked for most often at guidance 7; benchmarks/generation.py measures how far verdicts agree with
# those on 50 DDIM steps.
EMOJI = BuiltIn(HERE / "weights", catalogue, {"steps": 14, "guidance": 7.0, "batch_size": 64}, recommended=RECOMMENDED)
