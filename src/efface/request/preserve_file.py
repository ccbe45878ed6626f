"""Prompts to preserve from a file: the lines of a text file, or one column of a CSV.

Published lists of artists are CSV files that repeat each name in many prompts; the column of names is then the one to
read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from efface.errors import BadInput

#: Columns of prompts to preserve; a CSV's first one in this order is read.
_COLUMNS = ("concept", "artist", "name", "prompt")


def read_preserved(path: Path) -> list[str]:
    """Read the prompts to preserve, each once.

    Raises:
        BadInput: The file cannot be read, has no such column, or is empty.
    """
    try:
        # `splitlines` would also end a row at a form feed or U+2028 within a field.
        lines = StringIO(path.read_text(encoding="utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise BadInput(f"Cannot read {path}: it is not UTF-8 text.") from error
    except OSError as error:
        raise BadInput(f"Cannot read {path}: {error.strerror}.") from error
    values = _column(path, lines) if path.suffix.lower() == ".csv" else lines
    prompts = list(dict.fromkeys(value.strip() for value in values if value.strip()))
    if not prompts:
        raise BadInput(f"{path} is empty; write one prompt a line, or a CSV with a column {' or '.join(_COLUMNS)}.")
    return prompts


def _column(path: Path, lines: Iterable[str]) -> list[str]:
    try:
        reader = csv.DictReader(lines, skipinitialspace=True)
        columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
        chosen = next((columns[name] for name in _COLUMNS if name in columns), None)
        if columns and chosen is None:
            raise BadInput(
                f"{path} has none of the columns {', '.join(_COLUMNS)}, only {', '.join(columns)}; rename one."
            )
        return [row[chosen] or "" for row in reader]
    except csv.Error as error:
        raise BadInput(f"{path} is not a CSV file: {error}.") from error
