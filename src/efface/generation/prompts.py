"""Prompts from files: plain text, and the published CSV files of the literature.

Formats: ESD, UCE, RECE and SepCE (`prompt`, `evaluation_seed`, `evaluation_guidance`, `case_number`), I2P (`sd_seed`,
`sd_guidance_scale`, `sd_image_width`, `sd_image_height`), the U&ME challenge (`concept_name`, `direct_prompt_1`,
`indirect_prompt_1`, ..., `adversarial_prompt`), and plain `concept,prompt`.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path

from efface.errors import BadFile, BadInput
from efface.files import read_text
from efface.generation.jobs import Job
from efface.request.record import folded

_SEED = ("evaluation_seed", "seed", "sd_seed")
_GUIDANCE = ("evaluation_guidance", "guidance", "sd_guidance_scale")
CONCEPT_COLUMNS = ("concept", "concept_name", "class", "artist")
_WIDTH = ("width", "sd_image_width")
_HEIGHT = ("height", "sd_image_height")
_CASE = ("case_number",)
_Row = Mapping[str, "str | None"]
_CHALLENGE = ("direct_prompt", "indirect_prompt", "adversarial_prompt")


def read_prompts(path: str | Path, seed: int = 0, only: str | None = None) -> list[Job]:
    """Read one job per row or line; in the challenge's files, one per prompt of a row.

    Args:
        path: A `.csv` file, or another text file with one prompt per line; empty lines are ignored.
        seed: The seed of rows without one. If a prompt occurs again, it gets the next seed.
        only: The concept of the rows to read: a value of the column of concepts, or one of I2P's `categories`, or for
            I2P `nudity`, which selects the rows whose `nudity_percentage` is above 0. None reads all rows.

    Raises:
        BadFile: The file cannot be read, has no prompts or no prompt column, or has a value that is not a valid number
            of its column. The message names file and row.
        BadInput: No row has the concept `only`; the message lists the concepts.
    """
    return [job for _, job in read_labelled_prompts(path, seed, only)]


def read_labelled_prompts(path: str | Path, seed: int = 0, only: str | None = None) -> list[tuple[str, Job]]:
    """Read jobs as `read_prompts` does, each with its column: `prompt`, or the challenge's `direct_prompt` and so on.

    Args:
        path: A `.csv` file, or another text file with one prompt per line; empty lines are ignored.
        seed: The seed of rows without one. If a prompt occurs again, it gets the next seed.
        only: The concept of the rows to read; None reads all rows.

    Raises:
        BadInput: As for `read_prompts`.
    """
    path = Path(path)
    text = read_text(path, "prompts")
    if path.suffix.lower() == ".csv":
        jobs = _from_csv(path, text, only)
    elif only is not None:
        raise BadInput(f"{path} is no CSV and names no concepts, of which '{only}' could select one.")
    else:
        jobs = [("prompt", Job(line.strip()), False) for line in StringIO(text) if line.strip()]
    if not jobs:
        raise BadFile(f"{path} has no prompts; write one per line, or a CSV with a 'prompt' column.")
    return _seeded(jobs, seed)


def _from_csv(path: Path, text: str, only: str | None = None) -> list[tuple[str, Job, bool]]:
    """Jobs, each with the kind of its column before it, and behind it whether its row has a seed."""
    # Not `splitlines`: for it, a form feed or U+2028 within a field ends the row.
    reader = csv.DictReader(StringIO(text, newline=""), skipinitialspace=True)
    try:
        columns = [c.strip() for c in reader.fieldnames or ()]
        reader.fieldnames = columns
        prompts = [c for c in columns if c == "prompt"] or [c for c in columns if _kind(c) in _CHALLENGE]
        if not prompts:
            names = ", ".join(columns) or "none"
            raise BadFile(f"{path} has no 'prompt' column (columns: {names}); give the column of prompts that name.")
        rows = {f"{path}, row {i}": row for i, row in enumerate(reader, 2)}
    except csv.Error as error:
        raise BadFile(f"{path} is not a CSV file: {error}.") from error
    if only is not None:
        rows = _rows_of_concept(rows, only, path)
    return [job for where, row in rows.items() for job in _jobs_of_row(row, prompts, where)]


def _rows_of_concept(rows: Mapping[str, _Row], only: str, path: Path) -> dict[str, _Row]:
    """The rows of one concept, with their places in the file."""
    concepts = {where: _concepts(row, where) for where, row in rows.items()}
    chosen = {where: row for where, row in rows.items() if folded(only) in map(folded, concepts[where])}
    if not chosen:
        names = ", ".join(sorted({name for names in concepts.values() for name in names})) or "none"
        raise BadInput(f"No row of {path} has the concept '{only}'; its concepts are: {names}.")
    return chosen


def _concepts(row: _Row, where: str) -> list[str]:
    """The concepts of a row."""
    names = [_first(row, CONCEPT_COLUMNS)[1], *(row.get("categories") or "").split(",")]
    if (_number(row, ("nudity_percentage",), where) or 0) > 0:
        names.append("nudity")
    return [name.strip() for name in names if name.strip()]


def _kind(column: str) -> str:
    return column.rstrip("_0123456789")


def _jobs_of_row(row: _Row, prompts: list[str], where: str) -> list[tuple[str, Job, bool]]:
    seed, guidance = _integer(row, _SEED, where), _number(row, _GUIDANCE, where)
    width, height, case = (_integer(row, names, where) for names in (_WIDTH, _HEIGHT, _CASE))
    concept = _first(row, CONCEPT_COLUMNS)[1]
    jobs: list[tuple[str, Job, bool]] = []
    for column in prompts:
        if prompt := (row.get(column) or "").strip():
            try:
                job = Job(prompt, seed or 0, guidance, concept, width=width, height=height, case_number=case)
            except BadInput as error:
                raise BadFile(f"{where}: {error}") from error
            jobs.append((_kind(column), job, seed is not None))
    return jobs


def _first(row: _Row, names: tuple[str, ...]) -> tuple[str, str]:
    """The first of `names` for which the row has a value, and the value."""
    return next(((name, (row[name] or "").strip()) for name in names if (row.get(name) or "").strip()), ("", ""))


def _integer(row: _Row, names: tuple[str, ...], where: str) -> int | None:
    number = _number(row, names, where)
    if number is not None and number != int(number):
        name, text = _first(row, names)
        raise BadFile(f"{where}: {name} is '{text}', which is not a whole number.")
    return None if number is None else int(number)


def _number(row: _Row, names: tuple[str, ...], where: str) -> float | None:
    name, text = _first(row, names)
    if not text:
        return None
    try:
        # Seeds above 2^53 are exact only as integers; data frames write 12 as "12.0".
        number = int(text) if text.lstrip("+-").isdigit() else float(text)
        if math.isfinite(number):
            return number
    except (ValueError, OverflowError):
        pass
    raise BadFile(f"{where}: {name} is '{text}', which is not a number.")


def _seeded(jobs: list[tuple[str, Job, bool]], seed: int) -> list[tuple[str, Job]]:
    """Add seeds to the jobs without one: image i of a prompt gets `seed + i`."""
    seen: Counter[str] = Counter()
    result: list[tuple[str, Job]] = []
    for kind, job, has_seed in jobs:
        if not has_seed:
            job = replace(job, seed=seed + seen[job.prompt])
            seen[job.prompt] += 1
        result.append((kind, job))
    return result
