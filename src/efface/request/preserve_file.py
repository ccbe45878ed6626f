"""Prompts to preserve from a file: the lines of a text file, or one column of a CSV.

Published lists of artists are CSV files that repeat each name in many prompts; the column of names is then the one to
read.
"""

from __future__ import annotations

import logging
from pathlib import Path

from efface.errors import BadFile
from efface.tables import read_table

logger = logging.getLogger(__name__)

#: Columns of prompts to preserve; a CSV's first one in this order is read.
_COLUMNS = ("concept", "artist", "name", "prompt")


def read_preserved(path: Path) -> list[str]:
    """Read the prompts to preserve, each once.

    Raises:
        BadFile: The file cannot be read, has no such column, or is empty.
    """
    table = read_table(path, "prompts to preserve", _COLUMNS[0], _COLUMNS)
    column = next((name for name in _COLUMNS if name in table.columns), None)
    if table.columns and column is None:
        names = ", ".join(filter(None, table.columns))
        raise BadFile(f"{path} has none of the columns {', '.join(_COLUMNS)}, only {names}; rename one.")
    values = [row.values.get(column or "", "") for row in table.rows]
    prompts = list(dict.fromkeys(filter(None, values)))
    if not prompts:
        raise BadFile(f"{path} is empty; write one prompt a line, or a CSV with a column {' or '.join(_COLUMNS)}.")
    if table.comments:
        logger.info("%s: %d prompts; lines that are comments, left out: %d", path, len(prompts), table.comments)
    return prompts
