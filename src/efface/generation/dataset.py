"""The concepts of a dataset CSV, each with its guide and kind.

Layouts: `concept,prompt` with many rows per concept; the U&ME challenge's `concept_type,concept_name`,
`direct_prompt_1`, ..., `indirect_prompt_1`, ..., `adversarial_prompt`; and `concept,guide` without prompts.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from efface.errors import BadFile
from efface.files import read_text, slug
from efface.generation.prompts import CONCEPT_COLUMNS


@dataclass(frozen=True)
class DatasetConcept:
    """One concept of a dataset.

    Attributes:
        name: The concept in words.
        guide: The concept to generate instead; None if the file gives none.
        kind: The file's word for the kind of concept; empty if the file gives none.
    """

    name: str
    guide: str | None = None
    kind: str = ""


def read_concepts(path: Path) -> list[DatasetConcept]:
    """Read the distinct concepts of a dataset, in the order of the file.

    Raises:
        BadFile: The file cannot be read, names no concept, or gives one concept two guides.
    """
    column, rows = read_concept_rows(path)
    found: dict[str, DatasetConcept] = {}
    for number, row in enumerate(rows, 2):
        if not row.get(column):
            continue
        concept = DatasetConcept(row[column], row.get("guide") or None, row.get("concept_type", ""))
        known = found.setdefault(slug(concept.name, 120), concept)
        if known.guide is None:
            found[slug(concept.name, 120)] = replace(known, guide=concept.guide)
        elif concept.guide not in (None, known.guide):
            raise BadFile(f"{path}, row {number}: '{concept.name}' has two guides, {known.guide} and {concept.guide}.")
    if not found:
        raise BadFile(f"{path} names no concept; write one per row.")
    return list(found.values())


def read_concept_rows(path: Path) -> tuple[str, list[dict[str, str]]]:
    """The name of the column of concepts, and the rows of a dataset, each with its columns.

    Raises:
        BadFile: The file cannot be read, or has no column of concepts.
    """
    text = read_text(path, "concepts")
    try:
        reader = csv.DictReader(StringIO(text, newline=""), skipinitialspace=True)
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [{name: (value or "").strip() for name, value in row.items() if name} for row in _strings(reader)]
    except csv.Error as error:
        raise BadFile(f"Cannot read concepts from {path}: {error}.") from error
    column = next((name for name in CONCEPT_COLUMNS if name in columns), None)
    if column is None:
        names = ", ".join(columns) or "none"
        raise BadFile(f"{path} has no column 'concept' or 'concept_name' (columns: {names}); add one.")
    return column, rows


def _strings(reader: csv.DictReader[str]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if isinstance(value, str)} for row in reader]
