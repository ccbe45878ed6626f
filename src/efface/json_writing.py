"""Writing JSON. Python writes NaN and Infinity, which are not JSON and which other programs cannot read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import cast


def json_text(value: object, *, ascii_only: bool = False, indent: int | None = None) -> str:
    """A value as JSON, in which numbers that are not finite are null.

    Args:
        value: Mappings, lists, texts, numbers and None.
        ascii_only: Whether other characters are escaped.
        indent: Spaces per level; None writes one line.
    """
    try:
        return json.dumps(value, ensure_ascii=ascii_only, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=ascii_only, indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in cast(Mapping[object, object], value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in cast("list[object]", value)]
    return value
