"""Verdicts: a row an image and question, in one Parquet file.

An image that cannot be read, a judge that raises and a score that is not a number are rows with the answer `error`.
They are never an answer "no": a broken judge would otherwise make every model look safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from efface.errors import BadFile, BadInput
from efface.files import atomic
from efface.generation.folder import Image
from efface.judges.base import Hesitant, Judge, KeepsResults, PassesOn, Pixels, Scores
from efface.progress import Progress

Answer = Literal["yes", "no", "undecided", "error"]
_BATCH = 64


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one image and one question.

    Attributes:
        file_name: The image.
        question: The concept asked for.
        answer: `yes`, `no`, `undecided` or `error`.
        score: How sure the judge is of a yes; NaN on an error.
        judge: Its name.
        judge_version: Of its weights and settings.
        threshold: The score from which on the answer is yes.
        error: What went wrong, else empty.
    """

    file_name: str
    question: str
    answer: Answer
    score: float
    judge: str
    judge_version: str
    threshold: float
    error: str = ""


def judge_images(
    judge: Judge, images: Sequence[Image], concepts: Sequence[str], progress: Progress | None = None
) -> list[Verdict]:
    """Ask every question about every image.

    Args:
        judge: Who answers.
        images: n images, as `read_folder` or `generate` give them.
        concepts: The questions.
        progress: Told after each batch.

    Raises:
        BadInput: The judge does not know one of the concepts.
    """
    scores, errors = score_images(judge, images, concepts, progress)
    return verdicts(judge, images, concepts, scores, errors)


def verdicts(
    judge: Judge, images: Sequence[Image], concepts: Sequence[str], scores: Scores, errors: Sequence[str]
) -> list[Verdict]:
    """Rows of scores (n, m) that are already there, images first."""
    rows: list[Verdict] = []
    for image, line, error in zip(images, scores, errors, strict=True):
        for concept, score in zip(concepts, line.tolist(), strict=True):
            answer, threshold = answer_of(judge, concept, score), judge.threshold(concept)
            reason = (error or "the judge gave no score") if answer == "error" else ""
            name = str(image.row.get("file_name", ""))
            rows.append(Verdict(name, concept, answer, score, judge.name, judge.version, threshold, reason))
    return rows


def answer_of(judge: Judge, concept: str, score: float) -> Answer:
    """What a score means: yes from the judge's threshold on, no below it or, for a hesitant judge, below its floor."""
    if not np.isfinite(score):
        return "error"
    if score >= judge.threshold(concept):
        return "yes"
    return "undecided" if isinstance(judge, Hesitant) and score >= judge.floor(concept) else "no"


def score_images(
    judge: Judge, images: Sequence[Image], concepts: Sequence[str], progress: Progress | None = None
) -> tuple[Scores, list[str]]:
    """Scores (n, m), NaN on errors, and each image's error or an empty string."""
    unknown = [concept for concept in concepts if not judge.knows(concept)]
    if unknown:
        raise BadInput(f"The judge '{judge.name}' cannot recognise '{unknown[0]}'; ask for something it knows.")
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
    """Score images of one size; if the judge raises on them together, one by one, to find the one it raises on."""
    try:
        found = judge.scores(np.stack([pixels[i] for i in group]), concepts)
        scores[group] = np.where(np.isfinite(found), found, np.nan)
    except BadInput:
        raise
    except Exception as error:
        if len(group) == 1:
            errors[group[0]] = f"the judge failed: {type(error).__name__}: {error}"
            return
        for i in group:
            _score(judge, [i], pixels, concepts, scores, errors)


def write_verdicts(path: Path, rows: Sequence[Verdict], force: bool = True) -> None:
    """Write Parquet, a column a field of `Verdict`.

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
    """Read what `write_verdicts` wrote.

    Raises:
        BadFile: The file is missing, damaged or something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return [Verdict(**row) for row in pq.read_table(path).to_pylist()]
    except (OSError, pa.ArrowException, TypeError) as error:
        raise BadFile(f"Cannot read verdicts from {path}: {error}.") from error


# The files of results that a judge's users expect beside efface's own, also where other judges ask it.


def write_results(judge: Judge, folder: Path, images: Sequence[Image], verdicts: Sequence[Verdict]) -> None:
    """Let each judge that keeps results write them into `folder`, made if need be: of the questions it answered itself.

    Raises:
        BadFile: A file cannot be written.
    """
    keepers: dict[str, KeepsResults] = {}
    for question in dict.fromkeys(row.question for row in verdicts):
        if isinstance(who := _answering(judge, question), KeepsResults):
            keepers[question] = who
    for name, keeper in {keeper.results: keeper for keeper in keepers.values()}.items():
        folder.mkdir(parents=True, exist_ok=True)
        own = [row for row in verdicts if row.question in keepers and keepers[row.question].results == name]
        keeper.write_results(folder / name, images, own, force=True)


def _answering(judge: Judge, question: str) -> Judge:
    """Who answers in the end."""
    while isinstance(judge, PassesOn):
        judge = judge.answering(question)
    return judge
