"""Files of JSON lines: `metadata.jsonl` and `errors.jsonl` of image folders, and attempts of attacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ConfigDict, Field

from efface.errors import BadFile
from efface.files import atomic
from efface.json_writing import json_text
from efface.parsing import Schema, library_errors, parse_json

#: The metadata of one image, or another line.
Row = Mapping[str, Any]


class ForeignImageRow(Schema):
    """The columns of another tool's row that efface reads; an ImageFolder may have further ones of any type."""

    model_config = ConfigDict(extra="ignore")

    file_name: str = Field(min_length=1)
    prompt: str | None = None
    concept: str | bool | int | float | None = None


class ImageRow(Schema):
    """A row that efface wrote: everything that decides the pixels, its hash `key`, and the hash of the file."""

    model_config = ConfigDict(extra="ignore")

    file_name: str = Field(min_length=1)
    key: str = Field(min_length=1)
    prompt: str
    concept: str
    negative: str = ""
    seed: int = Field(ge=0)
    guidance: float
    steps: int = Field(ge=1)
    sampler: str
    clip_skip: int | None = None
    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    model: str
    model_hash: str
    eraser: str | None = None
    strength: float | None = None
    eta: float | None = None
    prompt_type: str | None = None
    case_number: str | int | None = None
    sha256: str | None = None
    error: str | None = None


def read_image_rows(path: Path) -> list[Row]:
    """Read metadata of images, or the file of images that could not be made; without a file, there are none.

    Raises:
        BadFile: A row is not the metadata of an image.
    """
    rows = read_rows(path)
    for number, row in enumerate(rows, 1):
        (ImageRow if is_own(row) else ForeignImageRow).checked(row, f"{path}, row {number},")
    return rows


def is_own(row: Row) -> bool:
    """Whether efface wrote a row; rows of other tools may have a column `key` too."""
    return "key" in row and "model_hash" in row


def read_rows(path: Path) -> list[Row]:
    """Read a file of JSON lines. A partial last line, as an interrupted writer leaves it, is ignored.

    Raises:
        BadFile: The file cannot be read, or a line is not a JSON object.
    """
    if not path.exists():
        return []
    with library_errors(f"Cannot read {path}"):
        lines = path.read_bytes().splitlines(keepends=True)
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            with library_errors(f"Cannot read {path}, line {number}"):
                row = parse_json(line)
        except BadFile:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise
        if not isinstance(row, dict):
            raise BadFile(f"Cannot read {path}, line {number}: it is not a JSON object.")
        rows.append(cast(dict[str, Any], row))
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a file of JSON lines atomically."""
    with atomic(path) as temporary:
        temporary.write_text("".join(map(line_of, rows)), encoding="utf-8")


def line_of(row: Row) -> str:
    """A row as a line of JSON."""
    return json_text(dict(row)) + "\n"
