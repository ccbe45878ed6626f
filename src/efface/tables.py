"""Rows of text files: CSV, TSV, JSON, JSON lines, and plain text with one entry per line.

The name gives the format, except for plain text, whose content is checked: a JSON list in a `.txt` file is read as a
list, and markup, git-lfs pointers and other formats are rejected, since each of their lines would be taken as an entry.
A line of plain text that begins with `#` and a space is a comment, as in the lists of other tools.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, cast

from efface.errors import BadFile
from efface.files import read_text
from efface.parsing import parse_json

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON, _JSON_LINES = (".json",), (".jsonl", ".ndjson")
_PLAIN = ("", ".txt", ".text", ".list")
_BULLETS = ("- ", "* ")
_COMMENT = re.compile(r"#+(\s|$)")  # "#1 dad" and "#sunset" are entries
#: The beginning of texts that are no lists of lines.
_FOREIGN = {
    r"version https://git-lfs\.github\.com/": "a git-lfs pointer; run `git lfs pull`",
    r"\s*<(!doctype|!--|\?xml|html|head|body|svg|rss)\b": "HTML or XML",
    r"%PDF-": "a PDF document",
    r"\{\\rtf": "an RTF document",
    r"(---|%YAML)": "YAML",
    r"#!": "a program",
    r"[^\n]*\|[^\n]*\n[ \t]*\|?[ \t]*:?-{3,}:?[ \t]*\|": "a table of Markdown",
}


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        line: The number of its first line in the file, from 1; in a JSON document, its number.
        values: By column, in lower case, the text without space around it. A missing JSON value is empty.
    """

    line: int
    values: Mapping[str, str]

    def first(self, names: Collection[str]) -> tuple[str, str]:
        """The first of these columns that has a value, and the value; two empty texts if none has."""
        return next(((name, self.values[name]) for name in names if self.values.get(name)), ("", ""))


@dataclass(frozen=True)
class Table:
    """The rows of a file.

    Attributes:
        path: The file.
        columns: The columns in lower case; the one that `read_table` was given for plain text.
        rows: The rows in order. Empty lines are left out.
        named: Whether the file names its columns.
        comments: The number of lines of plain text that are comments, which are left out.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    named: bool = True
    comments: int = 0

    def texts(self, column: str) -> list[str]:
        """The values of a column that are not empty."""
        return [value for row in self.rows if (value := row.values.get(column))]

    def where(self, row: TableRow) -> str:
        """File and line of a row, for messages."""
        return f"{self.path}, line {row.line}"


def read_table(path: Path, what: str, column: str, known: Collection[str] = ()) -> Table:
    """Read the rows of a file.

    Args:
        path: A `.csv`, `.tsv`, `.json` or `.jsonl` file, or plain text.
        what: The entries of the file, for messages.
        column: The column of files without columns: lines of plain text, and lists of texts.
        known: The columns, in lower case, that the caller reads besides. They decide whether the first line of plain
            text is a header, and which delimiter a file has.

    Raises:
        BadFile: The file cannot be read, is of another format, or has a row whose fields do not fit its header.
    """
    text = read_text(path, what)
    suffix = path.suffix.lower()
    known = {column, *known}
    if "\0" in text:
        raise BadFile(f"Cannot read {what} from {path}: it is not text.")
    for beginning, kind in _FOREIGN.items():
        if re.match(beginning, text, re.IGNORECASE):
            raise BadFile(f"Cannot read {what} from {path}: it is {kind}.")
    if suffix in _DELIMITERS:
        return _delimited(path, text, _delimiter(text, known) or _DELIMITERS[suffix])
    if suffix in _JSON:
        return _json_document(path, text, column, known)
    if suffix in _JSON_LINES:
        return _json_lines(path, text, column, known)
    if suffix in _PLAIN:
        return _plain(path, text, what, column, known)
    raise BadFile(
        f"Cannot read {what} from {path}: '{path.suffix}' is not .txt, .csv, .tsv, .json or .jsonl; save it as one."
    )


def _plain(path: Path, text: str, what: str, column: str, known: Collection[str]) -> Table:
    """Plain text, unless the content is a table or JSON."""
    if re.match(r'\s*(\[\s*["\[{\]]|\{\s*["}])', text):
        first = text.strip().splitlines()[0]
        lines = first.startswith("{") and first.rstrip().endswith("}") and "\n" in text.strip()
        return (_json_lines if lines else _json_document)(path, text, column, known)
    if (delimiter := _delimiter(text, known)) is not None:
        return _delimited(path, text, delimiter)
    lines, comments = plain_entries(text)
    if len(lines) > 1 and (
        all(line.startswith(_BULLETS) for _, line in lines)
        or (lines[0][1].endswith(":") and lines[1][1].startswith(_BULLETS))
    ):
        raise BadFile(f"Cannot read {what} from {path}: it is YAML or a list with bullets; write one per line.")
    if lines and lines[0][1].startswith("<") and lines[-1][1].endswith(">") and "</" in lines[-1][1]:
        raise BadFile(f"Cannot read {what} from {path}: it is HTML or XML.")
    rows = tuple(TableRow(number, {column: line}) for number, line in lines)
    return Table(path, (column,), rows, named=False, comments=comments)


def plain_entries(text: str) -> tuple[list[tuple[int, str]], int]:
    """The entries of plain text, each with the number of its line, and the number of lines that are comments."""
    # Not `splitlines`: for it, a form feed or U+2028 within a line ends the line.
    filled = [(number, line.strip()) for number, line in enumerate(StringIO(text), 1) if line.strip()]
    entries = [(number, line) for number, line in filled if not _COMMENT.match(line)]
    return entries, len(filled) - len(entries)


def _delimiter(text: str, known: Collection[str]) -> str | None:
    """The delimiter with which the first line is a header that has a known column; None if there is none."""
    header = next((line for line in StringIO(text) if line.strip()), "").strip()
    for delimiter in (",", "\t", ";", "|"):
        names = [_name(field) for field in header.split(delimiter)]
        # One word alone, such as "artist", may be an entry; "prompt" is not.
        if set(names) & set(known) and (len(names) > 1 or names == ["prompt"]):
            return delimiter
    return None


def _name(field: str) -> str:
    return field.strip().strip('"').strip().casefold()


def _delimited(path: Path, text: str, delimiter: str) -> Table:
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    columns: tuple[str, ...] = ()
    rows: list[TableRow] = []
    line = 1
    try:
        for fields in reader:
            start, line = line, reader.line_num + 1
            if len(fields) < 2 and not any(field.strip() for field in fields):
                continue
            if not columns:
                columns = tuple(name.strip().casefold() for name in fields)
                _check_columns(path, columns)
            elif len(fields) != len(columns):
                raise BadFile(
                    f"{path}, line {start}: {len(fields)} fields, but the header has {len(columns)}; put a field that "
                    f"contains {_DELIMITER_NAMES[delimiter]} in double quotes."
                )
            else:
                rows.append(TableRow(start, {name: field.strip() for name, field in zip(columns, fields, strict=True)}))
    except csv.Error as error:
        reason = "a double quote is not closed" if "unexpected end" in str(error) else str(error)
        raise BadFile(f"{path}, line {line}: {reason}.") from error
    return Table(path, columns, tuple(rows))


_DELIMITER_NAMES = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a vertical bar"}


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    named = [name for name in columns if name]
    if twice := [name for name in named if named.count(name) > 1]:
        raise BadFile(f"{path} has two columns '{twice[0]}'; remove or rename one.")


def _json_document(path: Path, text: str, column: str, known: Collection[str]) -> Table:
    content = _json(path, text, 1)
    if isinstance(content, dict):  # columns, or a list under one key
        lists = {str(key): value for key, value in cast(dict[Any, Any], content).items()}
        if not lists or not all(isinstance(value, list) for value in lists.values()):
            raise BadFile(f"{path} is neither a list of texts, a list of records, nor columns as lists.")
        if len({len(value) for value in lists.values()}) > 1:
            raise BadFile(f"{path} has columns of different lengths.")
        if len(lists) == 1 and not set(map(str.casefold, lists)) & set(known):
            content = next(iter(lists.values()))
        else:
            content = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    if not isinstance(content, list):
        raise BadFile(f"{path} is neither a list of texts, a list of records, nor columns as lists.")
    return _records(path, list(enumerate(cast(list[object], content), 1)), column, known)


def _json_lines(path: Path, text: str, column: str, known: Collection[str]) -> Table:
    numbered = [(number, line) for number, line in enumerate(StringIO(text), 1) if line.strip()]
    return _records(path, [(number, _json(path, line, number)) for number, line in numbered], column, known)


def _json(path: Path, text: str, line: int) -> object:
    try:
        return parse_json(text, finite=False)  # data frames write missing numbers as NaN
    except ValueError as error:
        at = getattr(error, "lineno", 1) - 1 + line
        reason = "this is not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadFile(f"{path}, line {at}: {reason}.") from error


def _records(path: Path, items: list[tuple[int, object]], column: str, known: Collection[str]) -> Table:
    """Rows of texts, or of records that all have the same known columns."""
    columns: dict[str, None] = {}
    rows: list[TableRow] = []
    for line, item in items:
        record = {column: item} if isinstance(item, str) else item
        if not isinstance(record, dict):
            raise BadFile(f"{path}, line {line}: neither a text nor a record.")
        names = [str(name).strip().casefold() for name in cast(dict[Any, object], record)]
        _check_columns(path, tuple(names))
        values = dict(zip(names, cast(dict[Any, object], record).values(), strict=True))
        if rows and (differ := (set(columns) ^ set(names)) & set(known)):
            raise BadFile(f"{path}, line {line}: '{min(differ)}' is not in all records; write it in each, or in none.")
        columns |= dict.fromkeys(names)
        if nested := [name for name in names if name in known and isinstance(values[name], (list, dict))]:
            raise BadFile(f"{path}, line {line}: '{nested[0]}' is not a single value.")
        rows.append(TableRow(line, {name: _text(value) for name, value in values.items()}))
    named = not all(isinstance(item, str) for _, item in items)
    return Table(path, tuple(columns) or (column,), tuple(rows), named)


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
