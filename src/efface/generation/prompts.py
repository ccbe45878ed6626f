"""Prompts from files: plain text, JSON, and the published CSV files of the literature.

Formats: ESD, UCE, RECE and SepCE (`prompt`, `evaluation_seed`, `evaluation_guidance`, `case_number`), I2P (`sd_seed`,
`sd_guidance_scale`, `sd_image_width`, `sd_image_height`), the U&ME challenge (`concept_name`, `direct_prompt_1`,
`indirect_prompt_1`, ..., `adversarial_prompt`), and plain `concept,prompt`. `efface.tables` has the formats of files.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from efface.errors import BadFile, BadInput
from efface.generation.jobs import Job
from efface.generation.labels import NO_COLUMN, grouping_columns, label_column
from efface.request.names import name_key
from efface.tables import Table, TableRow, read_table

logger = logging.getLogger(__name__)

_SEED = ("evaluation_seed", "seed", "sd_seed")
_GUIDANCE = ("evaluation_guidance", "guidance", "sd_guidance_scale")
_WIDTH = ("width", "sd_image_width")
_HEIGHT = ("height", "sd_image_height")
_CASE = ("case_number",)
_CHALLENGE = ("direct_prompt", "indirect_prompt", "adversarial_prompt")
_TYPES = {column: column.removesuffix("_prompt") for column in _CHALLENGE}
#: Sizes of files are rounded down to multiples of this number, as SPM does with those of COCO's photographs.
_GRID = 8
_ROLES = {"seed": _SEED, "guidance": _GUIDANCE, "width": _WIDTH, "height": _HEIGHT, "case number": _CASE}


@dataclass(frozen=True)
class PromptRow:
    """A job with its origin.

    Attributes:
        job: The job.
        kind: The column of its prompt: `prompt`, or the challenge's `direct_prompt` and so on, without number.
        values: All values of its row, by column in lower case.
    """

    job: Job
    kind: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file.

    Attributes:
        path: The file.
        rows: One per prompt.
        skipped: The number of rows without a prompt.
        columns: By role (`prompt`, `concept`, `seed` and so on), the columns that have it.
        unused: Columns without a role.
        groups: Those of them that may name concepts, in a file that has no column of concepts.
        comments: The number of lines that are comments.
    """

    path: Path
    rows: tuple[PromptRow, ...]
    skipped: int
    columns: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    comments: int = 0

    @property
    def jobs(self) -> list[Job]:
        """The jobs in the order of the file."""
        return [row.job for row in self.rows]

    @property
    def rounded(self) -> int:
        """The number of prompts whose image size was rounded."""
        return sum(bool(row.job.size_in_file) for row in self.rows)

    def check_labels(self) -> None:
        """Check that it is clear what each prompt should show.

        Raises:
            BadFile: Some prompts have a concept and some do not, or another column may have the concepts.
        """
        self.check_column()
        unlabelled = [row.job.prompt for row in self.rows if not row.job.concept]
        if unlabelled and len(unlabelled) < len(self.rows):
            raise BadFile(
                f"{self.path}: '{unlabelled[0][:60]}' has no concept, but other rows have one; write it there."
            )

    def check_column(self) -> None:
        """Check that it is clear which column has the concepts; rows may have none.

        Raises:
            BadFile: Another column may have them.
        """
        if self.groups:
            raise BadFile(
                f"{self.path}: the column '{self.groups[0]}' divides the prompts; pass "
                f"--concept-column {self.groups[0]} if it has their concepts, else --concept-column {NO_COLUMN}."
            )

    def log(self) -> None:
        """Log which column is used for what, and how many rows are left out."""
        if self.skipped or self.columns or self.rounded or self.comments:
            logger.info("%s", self)

    def __str__(self) -> str:
        parts = [f"{self.path}: {len(self.rows)} prompts"]
        if self.skipped:
            parts.append(f"rows without a prompt, left out: {self.skipped}")
        if self.comments:
            parts.append(f"lines that are comments, left out: {self.comments}")
        if self.rounded:
            parts.append(f"sizes rounded down to multiples of {_GRID}: {self.rounded}")
        parts += [f"{role} from {', '.join(columns)}" for role, columns in self.columns.items()]
        if self.unused:
            parts.append(f"not used: {', '.join(self.unused)}")
        return "; ".join(parts)


def read_prompts(
    path: str | Path, seed: int = 0, concept_column: str | None = None, only: str | None = None
) -> list[Job]:
    """Read one job per row or line; in the challenge's files, one per prompt of a row.

    Args:
        path: A file of the formats of `read_prompt_file`.
        seed: The seed of rows without one. If a prompt occurs again, it gets the next seed.
        concept_column: The column of concepts, as for `read_prompt_file`.
        only: The concept of the rows to read, as for `read_prompt_file`.

    Raises:
        BadInput: As for `read_prompt_file`.
    """
    return read_prompt_file(path, seed, concept_column, only).jobs


def read_prompt_file(
    path: str | Path, seed: int = 0, concept_column: str | None = None, only: str | None = None
) -> PromptFile:
    """Read jobs, each with its row.

    Args:
        path: A `.csv`, `.tsv`, `.json` or `.jsonl` file, or a text file with one prompt per line; empty lines and
            comments, which begin with `# `, are left out.
        seed: The seed of rows without one. If a prompt occurs again, it gets the next seed.
        concept_column: The column with the concept that each prompt should show, or `none`. By default, `concept` and
            its usual names, or the only column whose words occur in the prompts.
        only: The concept of the rows to read: a value of the column of concepts, or one of I2P's `categories`, or for
            I2P `nudity`, which selects the rows whose `nudity_percentage` is above 0. None reads all rows.

    Raises:
        BadFile: The file cannot be read, has no prompts or no prompt column, or has a value that is not a valid number
            of its column; or its column of concepts is missing or not clear. The message names file and line.
        BadInput: No row has the concept `only`; the message lists the concepts.
    """
    known = [name for names in _ROLES.values() for name in names]
    table = read_table(Path(path), "prompts", "prompt", known)
    prompts = [c for c in table.columns if c == "prompt"] or [c for c in table.columns if _kind(c) in _CHALLENGE]
    if not prompts:
        names = ", ".join(filter(None, table.columns)) or "none"
        raise BadFile(f"{path} has no 'prompt' column (columns: {names}); give the column of prompts that name.")
    columns = {"prompt": tuple(prompts)} | {
        role: tuple(name for name in names if name in table.columns) for role, names in _ROLES.items()
    }
    taken = {name for names in columns.values() for name in names}
    label = label_column(table, prompts, taken, concept_column)
    columns["concept"] = (label,) if label else ()
    jobs: list[tuple[str, Job, bool, TableRow]] = []
    skipped = 0
    for row in table.rows if only is None else _rows_of_concept(table, label, only):
        of_row = _jobs_of_row(row, prompts, label, table.where(row))
        skipped += not of_row
        jobs += of_row
    if not jobs:
        raise BadFile(f"{path} has no prompts; write one per line, or a CSV with a 'prompt' column.")
    taken |= {label}
    unused = tuple(name for name in table.columns if name and name not in taken)
    return PromptFile(
        table.path,
        _seeded(jobs, seed),
        skipped,
        {role: names for role, names in columns.items() if names and table.named},
        unused,
        () if label or concept_column else tuple(grouping_columns(table, unused)),
        table.comments,
    )


def _rows_of_concept(table: Table, label: str, only: str) -> list[TableRow]:
    """The rows of one concept."""
    concepts = [(row, _concepts(row, label, table.where(row))) for row in table.rows]
    chosen = [row for row, names in concepts if name_key(only) in map(name_key, names)]
    if not chosen:
        names = ", ".join(sorted({name for _, names in concepts for name in names}))
        if not names:
            raise BadInput(f"{table.path} names no concepts, so --only '{only}' selects no row; leave it out.")
        raise BadInput(f"No row of {table.path} has the concept '{only}'; its concepts are: {names}.")
    return chosen


def _concepts(row: TableRow, label: str, where: str) -> list[str]:
    """The concepts of a row."""
    names = [row.values.get(label, ""), *row.values.get("categories", "").split(",")]
    if (_number(row, ("nudity_percentage",), where) or 0) > 0:
        names.append("nudity")
    return [name.strip() for name in names if name.strip()]


def _kind(column: str) -> str:
    return column.rstrip("_0123456789")


def _jobs_of_row(row: TableRow, prompts: list[str], label: str, where: str) -> list[tuple[str, Job, bool, TableRow]]:
    """Jobs, each with the kind of its column before it, and behind it whether its row has a seed."""
    seed, guidance = _integer(row, _SEED, where), _number(row, _GUIDANCE, where)
    width, height, case = (_integer(row, names, where) for names in (_WIDTH, _HEIGHT, _CASE))
    size_in_file = _size(width, height)
    width, height = (side - side % _GRID if side and side >= _GRID else side for side in (width, height))
    if _size(width, height) == size_in_file:
        size_in_file = ""
    concept = row.values.get(label, "")
    jobs: list[tuple[str, Job, bool, TableRow]] = []
    for column in prompts:
        if prompt := row.values.get(column, ""):
            try:
                job = Job(prompt, seed or 0, guidance, concept, width=width, height=height, case_number=case)
                job = replace(job, size_in_file=size_in_file, prompt_type=_TYPES.get(_kind(column), ""))
            except BadInput as error:
                raise BadFile(f"{where}: {error}") from error
            jobs.append((_kind(column), job, seed is not None, row))
    return jobs


def _size(width: int | None, height: int | None) -> str:
    """A size in words, such as 512x768; a side that the file does not have is the model's."""
    return "" if width is None and height is None else f"{width or 'default'}x{height or 'default'}"


def _integer(row: TableRow, names: tuple[str, ...], where: str) -> int | None:
    number = _number(row, names, where)
    if number is not None and number != int(number):
        name, text = row.first(names)
        raise BadFile(f"{where}: {name} is '{text}', which is not a whole number.")
    return None if number is None else int(number)


def _number(row: TableRow, names: tuple[str, ...], where: str) -> float | None:
    """The number of a row that one of several columns has.

    Raises:
        BadFile: It is no number, or two of the columns have different ones.
    """
    numbers = {name: _number_in(text, name, where) for name in names if (text := row.values.get(name, ""))}
    for name, number in numbers.items():
        if number != (first := next(iter(numbers.values()))):
            other = next(iter(numbers))
            raise BadFile(f"{where}: {other} is {first}, but {name} is {number}; remove the wrong column.")
    return next(iter(numbers.values()), None)


def _number_in(text: str, name: str, where: str) -> float:
    try:
        # Seeds above 2^53 are exact only as integers; data frames write 12 as "12.0".
        number = int(text) if text.lstrip("+-").isdigit() else float(text)
        if math.isfinite(number):
            return number
    except (ValueError, OverflowError):
        pass
    raise BadFile(f"{where}: {name} is '{text}', which is not a number.")


def _seeded(jobs: list[tuple[str, Job, bool, TableRow]], seed: int) -> tuple[PromptRow, ...]:
    """Add seeds to the jobs without one: image i of a prompt gets `seed + i`."""
    seen: Counter[str] = Counter()
    result: list[PromptRow] = []
    for kind, job, has_seed, row in jobs:
        if not has_seed:
            job = replace(job, seed=seed + seen[job.prompt])
            seen[job.prompt] += 1
        result.append(PromptRow(job, kind, row.values))
    return tuple(result)
