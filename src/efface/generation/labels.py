"""The column that names the concept of each prompt of a file.

Files of prompts have this column under many names. It is found by its name, or because its words occur in the prompts;
where several columns qualify, the user chooses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from efface.errors import BadFile
from efface.request.names import name_key
from efface.tables import Table

#: Names that always mean the concept; the first one wins.
CONCEPT_COLUMNS = ("concept", "concept_name", "class", "artist")
#: Names that may mean the concept.
_LABELS = frozenset({
    "label", "label_str", "label_name", "labels", "class_name", "classname", "category_name", "object", "object_name",
    "style", "profession", "celebrity", "celebrity_name", "name", "subject", "target", "type",
})  # fmt: skip
NO_COLUMN = "none"
_FEW_WORDS, _FEW_LETTERS = 5, 3


def label_column(table: Table, prompts: Sequence[str], taken: Collection[str], chosen: str | None) -> str:
    """The column of concepts; empty if the file has none.

    Args:
        table: The rows of the file.
        prompts: The columns of prompts.
        taken: Columns with another meaning.
        chosen: The column that the user names, or `none`. None means to search for it.

    Raises:
        BadFile: There is no such column, or several columns could have the concepts.
    """
    if chosen is not None:
        column = chosen.strip().casefold()
        if column == NO_COLUMN:
            return ""
        if column not in table.columns:
            names = ", ".join(filter(None, table.columns))
            raise BadFile(f"{table.path} has no column '{chosen}' of concepts; its columns are: {names}.")
        return column
    words = [name for name in table.columns if name and name not in taken and _has_words(table, name)]
    if certain := [name for name in CONCEPT_COLUMNS if name in (words if table.rows else table.columns)]:
        return certain[0]
    shown = [name for name in words if _is_shown(table, prompts, name)]
    possible = shown if len(shown) == 1 else [name for name in words if name in shown or name in _LABELS]
    if len(possible) > 1:
        raise BadFile(
            f"{table.path}: the concepts may be in the columns {', '.join(possible)}; choose with --concept-column "
            f"{possible[0]}, or --concept-column {NO_COLUMN} if none has them."
        )
    return possible[0] if possible else ""


def grouping_columns(table: Table, columns: Sequence[str]) -> list[str]:
    """Those of some columns that divide the rows into groups by words: they may name concepts.

    Args:
        table: The rows of the file.
        columns: The columns.
    """
    groups: list[str] = []
    for column in columns:
        values = [value for row in table.rows if (value := row.values.get(column))]
        if _has_words(table, column) and 1 < len(set(values)) < len(values):
            groups.append(column)
    return groups


def _has_words(table: Table, column: str) -> bool:
    """Whether a column has a value that is not a number."""
    return any(not _is_number(row.values.get(column, "")) for row in table.rows if row.values.get(column))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_shown(table: Table, prompts: Sequence[str], column: str) -> bool:
    """Whether most of a column's values are a few words of their prompts."""
    pairs = [
        (row.values.get(column, ""), row.values.get(prompt, ""))
        for row in table.rows
        for prompt in prompts
        if row.values.get(column) and row.values.get(prompt)
    ]
    return bool(pairs) and 2 * sum(_names(label, prompt) for label, prompt in pairs) > len(pairs)


def _names(label: str, prompt: str) -> bool:
    key = name_key(label)
    return len(label.split()) <= _FEW_WORDS and len(key) >= _FEW_LETTERS and key in name_key(prompt) != key
