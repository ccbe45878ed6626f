"""Verdicts: one row per image and question, in one Parquet file.

An image that cannot be read, a judge that raises and a score that is not a number are rows with the answer `error`.
They never count as "no": a broken judge would otherwise make every model look safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from efface.errors import BadInput
from efface.files import atomic
from efface.generation.folder import Image
from efface.image_files import is_blank
from efface.judges.base import Answer, HasUndecidedBand, Judge, Pixels, Scores, Verdict
from efface.judges.shared.unknown import unrecognised
from efface.parsing import Schema, library_errors
from efface.progress import Progress

_BATCH = 64
_COLUMNS = 64
BLANK = "the image is of one colour"


def judge_images(
    judge: Judge, images: Sequence[Image], concepts: Sequence[str], progress: Progress | None = None
) -> list[Verdict]:
    """Ask every question about every image. The answer about a blank image, such as a censored one, is `broken`.

    Args:
        judge: The judge.
        images: The images, as `read_folder` or `generate` return them.
        concepts: The questions.
        progress: The progress callback, called after each batch.

    Returns:
        The verdicts: for each image, one per question.

    Raises:
        BadInput: The judge does not know one of the concepts.
    """
    blank: set[int] = set()
    scores, errors = score_images(judge, images, concepts, progress, blank)
    rows = verdicts_of_scores(judge, images, concepts, scores, errors)
    return [
        replace(row, answer="broken", error=BLANK) if index // len(concepts) in blank and row.answer != "error" else row
        for index, row in enumerate(rows)
    ]


def verdicts_of_scores(
    judge: Judge, images: Sequence[Image], concepts: Sequence[str], scores: Scores, errors: Sequence[str]
) -> list[Verdict]:
    """Turn scores into verdicts.

    Args:
        judge: The judge that scored.
        images: The n images.
        concepts: The m questions.
        scores: Of shape (n, m), NaN on errors.
        errors: The error of each image, or an empty string.

    Returns:
        The verdicts: for each image, one per question.
    """
    rows: list[Verdict] = []
    for image, line, error in zip(images, scores, errors, strict=True):
        for concept, score in zip(concepts, line.tolist(), strict=True):
            answer, threshold = answer_of(judge, concept, score), judge.threshold(concept)
            reason = (error or "the judge gave no score") if answer == "error" else ""
            name = str(image.row.get("file_name", ""))
            rows.append(Verdict(name, concept, answer, score, judge.name, judge.version, threshold, reason))
    return rows


def answer_of(judge: Judge, concept: str, score: float) -> Answer:
    """The answer that a score means.

    Args:
        judge: The judge that scored.
        concept: The question.
        score: The score.

    Returns:
        "error" if the score is not finite, "yes" from the judge's threshold on, "no" below it or, for a judge with an
        undecided band, below its floor, and "undecided" between floor and threshold.
    """
    if not np.isfinite(score):
        return "error"
    if score >= judge.threshold(concept):
        return "yes"
    return "undecided" if isinstance(judge, HasUndecidedBand) and score >= judge.floor(concept) else "no"


def score_images(
    judge: Judge,
    images: Sequence[Image],
    concepts: Sequence[str],
    progress: Progress | None = None,
    blank: set[int] | None = None,
) -> tuple[Scores, list[str]]:
    """Score every image for every question.

    Args:
        judge: The judge.
        images: The n images.
        concepts: The m questions.
        progress: The progress callback, called after each batch.
        blank: Receives the indices of blank images.

    Returns:
        Scores of shape (n, m), NaN on errors; and the error of each image, or an empty string.

    Raises:
        BadInput: The judge does not know one of the concepts.
    """
    unknown = [concept for concept in concepts if not judge.knows(concept)]
    if unknown:
        raise unrecognised(judge, unknown[0], "ask for something it knows")
    scores = np.full((len(images), len(concepts)), np.nan)
    errors = [""] * len(images)
    for start in range(0, len(images), _BATCH):
        span = range(start, min(start + _BATCH, len(images)))
        pixels: dict[int, Pixels] = {}
        for i in span:
            try:
                pixels[i] = images[i].pixels()
            except OSError as error:
                errors[i] = f"the image cannot be read: {error}"
        if blank is not None:
            blank |= {i for i, image in pixels.items() if is_blank(image)}
        for group in _same_size(pixels):
            _score(judge, group, pixels, concepts, scores, errors)
        if progress:
            progress("verdicts", span.stop, len(images))
    return scores, errors


def _same_size(pixels: dict[int, Pixels]) -> Iterator[list[int]]:
    for shape in dict.fromkeys(image.shape for image in pixels.values()):
        yield [i for i, image in pixels.items() if image.shape == shape]


def _score(
    judge: Judge,
    group: list[int],
    pixels: dict[int, Pixels],
    concepts: Sequence[str],
    scores: Scores,
    errors: list[str],
) -> None:
    """Score images of one size. If the judge raises, score them one by one, so that only the broken one is an error."""
    try:
        batch = judge.scores(np.stack([pixels[i] for i in group]), concepts)
        scores[group] = np.where(np.isfinite(batch), batch, np.nan)
    except BadInput:
        raise
    except Exception as error:
        if len(group) == 1:
            errors[group[0]] = f"the judge failed: {type(error).__name__}: {error}"
            return
        for i in group:
            _score(judge, [i], pixels, concepts, scores, errors)


def write_verdicts(path: Path, rows: Sequence[Verdict], force: bool = True) -> None:
    """Write a Parquet file with a column for each field of `Verdict`.

    Args:
        path: The file.
        rows: The verdicts.
        force: Whether an existing file may be replaced.

    Raises:
        BadFile: The file cannot be written, or exists and `force` is false.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.float64()
    fields = {"score": number, "threshold": number}
    schema = pa.schema([(name, fields.get(name, text)) for name in Verdict.__dataclass_fields__])
    with atomic(path, force) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), temporary)


def read_verdicts(path: Path) -> list[Verdict]:
    """Read a file that `write_verdicts` wrote.

    Raises:
        BadFile: The file is missing, damaged or of another kind.
    """
    import pyarrow.parquet as pq

    with library_errors(f"Cannot read verdicts from {path}"):
        with pq.ParquetFile(path) as file:
            # A row takes at least one byte, since images have different names.
            if file.metadata.num_rows > path.stat().st_size or file.metadata.num_columns > _COLUMNS:
                raise ValueError("its header names more rows than the file can have")
            rows = file.read().to_pylist()
        return [Verdict(**VerdictRow.model_validate(row).model_dump()) for row in rows]


class VerdictRow(Schema):
    """A row of the Parquet file."""

    file_name: str
    question: str = Field(min_length=1)
    answer: Answer
    score: float = Field(allow_inf_nan=True)
    judge: str
    judge_version: str
    threshold: float
    error: str

    @model_validator(mode="after")
    def _consistent(self) -> VerdictRow:
        has_score, is_yes = math.isfinite(self.score), self.score >= self.threshold
        fits = {"yes": is_yes, "no": not is_yes, "undecided": not is_yes}.get(self.answer, True)
        has_error = self.answer in ("error", "broken")
        if has_score == (self.answer == "error") or not fits or bool(self.error) != has_error:
            raise ValueError(f"the answer '{self.answer}' does not fit the score {self.score:g}")
        return self
