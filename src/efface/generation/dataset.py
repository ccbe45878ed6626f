"""The concepts of a dataset CSV, each with its guide and kind.

Layouts: `concept,prompt` with many rows per concept; the U&ME challenge's `concept_type,concept_name`,
`direct_prompt_1`, ..., `indirect_prompt_1`, ..., `adversarial_prompt`; and `concept,guide` without prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from efface.errors import BadFile
from efface.generation.jobs import Job
from efface.generation.labels import CONCEPT_COLUMNS, label_column
from efface.generation.prompts import read_prompt_file
from efface.request.names import name_key
from efface.tables import Table, read_table


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


def read_concepts(path: Path, concept_column: str | None = None) -> list[DatasetConcept]:
    """Read the distinct concepts of a dataset, in the order of the file.

    Args:
        path: A CSV, TSV or JSON file.
        concept_column: The column of concepts. By default, it is found by its name or its words.

    Raises:
        BadFile: The file cannot be read, names no concept, or gives one concept two guides.
    """
    column, table = read_concept_rows(path, concept_column)
    found: dict[str, DatasetConcept] = {}
    for row in table.rows:
        name = row.values.get(column, "")
        if not name:
            continue
        concept = DatasetConcept(name, row.values.get("guide") or None, row.values.get("concept_type", ""))
        known = found.setdefault(name_key(name), concept)
        if known.guide is None:
            found[name_key(name)] = replace(known, guide=concept.guide)
        elif concept.guide not in (None, known.guide):
            raise BadFile(f"{table.where(row)}: '{name}' has two guides, {known.guide} and {concept.guide}.")
    if not found:
        raise BadFile(f"{path} names no concept; write one per row.")
    return list(found.values())


def prompts_by_concept(path: Path, seed: int = 0, concept_column: str | None = None) -> dict[str, list[Job]]:
    """Read the prompts of each concept of a dataset, by the concept's name, in the order of the file.

    Args:
        path: A CSV, TSV or JSON file.
        seed: The seed of rows without one. If a prompt occurs again, it gets the next seed.
        concept_column: The column of concepts. By default, it is found by its name or its words.

    Raises:
        BadFile: The file cannot be read, names no concept, or a prompt has no concept.
    """
    names = {name_key(concept.name): concept.name for concept in read_concepts(path, concept_column)}
    prompts: dict[str, list[Job]] = {}
    for job in read_prompt_file(path, seed, concept_column).jobs:
        if not job.concept:
            raise BadFile(
                f"{path} does not say which concept '{job.prompt[:40]}' should show; fill the concept's column."
            )
        name = names[name_key(job.concept)]
        prompts.setdefault(name, []).append(replace(job, concept=name))
    return prompts


def read_concept_rows(path: Path, concept_column: str | None = None) -> tuple[str, Table]:
    """The name of the column of concepts, and the rows of a dataset.

    Args:
        path: A CSV, TSV or JSON file.
        concept_column: The column of concepts. By default, it is found by its name or its words.

    Raises:
        BadFile: The file cannot be read, or has no column of concepts.
    """
    table = read_table(path, "concepts", "concept", (*CONCEPT_COLUMNS, "prompt", "guide", "concept_type"))
    prompts = [name for name in table.columns if "prompt" in name]
    column = label_column(table, prompts, {*prompts, "guide", "concept_type"}, concept_column)
    if not column:
        names = ", ".join(filter(None, table.columns)) or "none"
        list_of_names = ", or write one name per line in a .txt file" if len(table.columns) == 1 else ""
        raise BadFile(
            f"{path} has no column 'concept' (columns: {names}); choose one with --concept-column{list_of_names}."
        )
    return column, table
