"""Prompts from files: plain text, and the CSV files of the literature as they are published.

Read: ESD, UCE, RECE and SepCE (`prompt`, `evaluation_seed`, `evaluation_guidance`, `case_number`), I2P (`sd_seed`,
`sd_guidance_scale`, `sd_image_width`, `sd_image_height`), the U&ME challenge (`concept_name`, `direct_prompt_1`,
`indirect_prompt_1`, ..., `adversarial_prompt`), and plain `concept,prompt`.
"""

import csv
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path

from efface.errors import BadFile, BadInput
from efface.generation.jobs import Job

_SEED = ("evaluation_seed", "seed", "sd_seed")
_GUIDANCE = ("evaluation_guidance", "guidance", "sd_guidance_scale")
_CONCEPT = ("concept", "concept_name", "class", "artist")
_WIDTH = ("width", "sd_image_width")
_HEIGHT = ("height", "sd_image_height")
_CHALLENGE = ("direct_prompt", "indirect_prompt", "adversarial_prompt")


def read_prompts(path: str | Path, seed: int = 0) -> list[Job]:
    """One job a row or line (the challenge's rows: one a prompt in it).

    Args:
        path: A `.csv` file, or any other text file with one prompt a line; empty lines are left out.
        seed: For rows that carry none; a prompt that comes again gets the next one.

    Raises:
        BadFile: Unreadable, without a prompt column, empty, or with a number that is none or none for its column;
            names file and row.
    """
    return [job for _, job in read_labelled_prompts(path, seed)]


def read_labelled_prompts(path: str | Path, seed: int = 0) -> list[tuple[str, Job]]:
    """The same, each with the kind of its column: `prompt`, or the challenge's `direct_prompt` and so on."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise BadFile(f"Cannot read prompts from {path}: {reason}.") from error
    if path.suffix.lower() == ".csv":
        jobs = _from_csv(path, text)
    else:
        jobs = [("prompt", Job(line.strip()), False) for line in StringIO(text) if line.strip()]
    if not jobs:
        raise BadFile(f"{path} holds no prompt; give one a line, or a CSV with a 'prompt' column.")
    return _seeded(jobs, seed)


def _from_csv(path: Path, text: str) -> list[tuple[str, Job, bool]]:
    """Jobs, each with the kind of its column before it and whether its row gave a seed behind it."""
    # Not `splitlines`: to that, a form feed or U+2028 within a field ends the row.
    reader = csv.DictReader(StringIO(text, newline=""), skipinitialspace=True)
    try:
        columns = [c.strip() for c in reader.fieldnames or ()]
        reader.fieldnames = columns
        prompts = [c for c in columns if c == "prompt"] or [c for c in columns if _kind(c) in _CHALLENGE]
        if not prompts:
            found = ", ".join(columns) or "none"
            raise BadFile(f"{path} has no 'prompt' column (columns: {found}); give the column of prompts that name.")
        return [job for i, row in enumerate(reader, 2) for job in _jobs_of_row(row, prompts, f"{path}, row {i}")]
    except csv.Error as error:
        raise BadFile(f"{path} is not a CSV file: {error}.") from error


def _kind(column: str) -> str:
    return column.rstrip("_0123456789")


def _jobs_of_row(row: Mapping[str, str | None], prompts: list[str], where: str) -> list[tuple[str, Job, bool]]:
    seed, guidance = _whole(row, _SEED, where), _number(row, _GUIDANCE, where)
    width, height, concept = _whole(row, _WIDTH, where), _whole(row, _HEIGHT, where), _first(row, _CONCEPT)[1]
    jobs: list[tuple[str, Job, bool]] = []
    for column in prompts:
        if prompt := (row.get(column) or "").strip():
            try:
                job = Job(prompt, seed or 0, guidance, concept, width=width, height=height)
            except BadInput as error:
                raise BadFile(f"{where}: {error}") from error
            jobs.append((_kind(column), job, seed is not None))
    return jobs


def _first(row: Mapping[str, str | None], names: tuple[str, ...]) -> tuple[str, str]:
    """The first of `names` that the row fills in, and its text."""
    return next(((name, (row[name] or "").strip()) for name in names if (row.get(name) or "").strip()), ("", ""))


def _whole(row: Mapping[str, str | None], names: tuple[str, ...], where: str) -> int | None:
    number = _number(row, names, where)
    if number is not None and number != int(number):
        name, text = _first(row, names)
        raise BadFile(f"{where}: {name} is '{text}', which is not a whole number.")
    return None if number is None else int(number)


def _number(row: Mapping[str, str | None], names: tuple[str, ...], where: str) -> float | None:
    name, text = _first(row, names)
    if not text:
        return None
    try:
        # Seeds beyond 2^53 are exact only as integers; "12.0" is how data frames write 12.
        number = int(text) if text.lstrip("+-").isdigit() else float(text)
        if math.isfinite(number):
            return number
    except (ValueError, OverflowError):
        pass
    raise BadFile(f"{where}: {name} is '{text}', which is not a number.")


def _seeded(jobs: list[tuple[str, Job, bool]], seed: int) -> list[tuple[str, Job]]:
    """Seeds for the jobs that have none: image i of a prompt gets `seed + i`."""
    seen: Counter[str] = Counter()
    result: list[tuple[str, Job]] = []
    for kind, job, has_seed in jobs:
        if not has_seed:
            job = replace(job, seed=seed + seen[job.prompt])
            seen[job.prompt] += 1
        result.append((kind, job))
    return result
