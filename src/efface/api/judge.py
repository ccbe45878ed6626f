"""`efface.judge`: images and questions to verdicts, counts and rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.images import images_from
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.errors import BadFile, BadInput
from efface.files import exists_already
from efface.generation import Image
from efface.generation.folder import skipped_files
from efface.generation.runs import runs_in_one_folder
from efface.judges import HasTable, Judge, Verdict, judge_images, open_judge, read_verdicts, write_verdicts
from efface.judges.shared.questions import is_path
from efface.metrics.base import Measured
from efface.metrics.bootstrap import by_prompt
from efface.metrics.rates import rate_with_interval
from efface.models.runtime import resolve_device
from efface.request.several import check_one_name
from efface.rerun import check_new_or_same, write_or_compare

if TYPE_CHECKING:
    import torch

    from efface.api.images import ImagesLike
    from efface.progress import Progress


@dataclass(frozen=True)
class JudgeIdentity(VerbResult):
    """The judge that answered.

    Attributes:
        name: Its name.
        version: The version of its weights and settings.
        thresholds: By question, the score from which the answer is yes.
    """

    name: str
    version: str
    thresholds: Mapping[str, float]


@dataclass(frozen=True)
class AnswerCounts(VerbResult):
    """How often the judge gave each answer to one question.

    Attributes:
        yes: Images that show the concept.
        no: Images that do not.
        undecided: Images about which the judge is undecided.
        error: Images that could not be judged; they never count as "no".
        broken: Images of one colour, such as those that a safety checker replaced; they never count as "no".
        rate: The share of yes among yes and no, with its interval; None without any such answer.
    """

    yes: int
    no: int
    undecided: int
    error: int
    broken: int
    rate: Measured | None

    def to_json(self) -> dict[str, Any]:
        """The counts by answer, and the rate with its interval and number of images."""
        return {**super().to_json(), "rate": self.rate and self.rate.as_dict()}


@dataclass(frozen=True)
class JudgeResult(VerbResult):
    """Verdicts on images.

    Attributes:
        path: The file of the verdicts; None if they were not written.
        judge: The judge.
        questions: By question, the number of each answer, and the rate of yes.
        verdicts: One verdict per image and question, images first.
        skipped: Files beside the images that are not read.
        runs: The largest number of runs of `efface generate` whose images are in one folder.
        table: With `table`, the questions of each row of the judge's table, by column.
        existed: Whether the same file was there before, so that nothing was written.
    """

    path: Path | None
    judge: JudgeIdentity
    questions: Mapping[str, AnswerCounts]
    verdicts: tuple[Verdict, ...]
    skipped: tuple[str, ...] = ()
    runs: int = 0
    table: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    existed: bool = False

    @property
    def errors(self) -> int:
        """The number of verdicts that are errors."""
        return sum(counts.error for counts in self.questions.values())

    def to_json(self) -> dict[str, Any]:
        """The object that `efface judge --json` prints; the verdicts are given by their file."""
        questions = {question: counts.to_json() for question, counts in self.questions.items()}
        path = None if self.path is None else str(self.path)
        counted = {
            row: {column: self.questions[question].yes for column, question in cells.items()}
            for row, cells in self.table.items()
        }
        table = {"table": counted} if counted else {}
        return {
            "verdicts": path,
            "judge": self.judge.to_json(),
            "questions": questions,
            "calibration": None,
            "skipped": list(self.skipped),
            "runs": self.runs,
            "existed": self.existed,
            **table,
        }


@none_is_not_given
def judge(
    images: ImagesLike,
    questions: str | Sequence[str] = (),
    *,
    judge: Judge | str = "emoji",
    table: bool = False,
    out: Path | str | None = None,
    trust_torchscript: bool = False,
    device: str | torch.device = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> JudgeResult:
    """Ask a judge whether each image shows a concept.

    Example:
        >>> images = efface.generate("a cat in 3d style", n=8)
        >>> efface.judge(images, "cat").questions["cat"].rate.value
        1.0

    Args:
        images: A folder of images, the result of `efface.generate`, or images: PIL images, or arrays (H, W, 3) of
            bytes or of numbers from 0 to 1.
        questions: The concepts to look for.
        judge: A judge, or its name (`efface judges`).
        table: Ask the questions of the judge's table too (nudenet: the images with nudity and with each part, at three
            thresholds), about the images of all folders below the given one.
        out: The Parquet file to write the verdicts to, one row per image and question; None writes nothing.
        trust_torchscript: Whether the judge's TorchScript file, which is a program, may be run.
        device: The device to open a judge's name on.
        force: Whether an existing file may be replaced.
        progress: The progress callback.

    Raises:
        BadInput: The images, a question or the judge cannot be used; the message says what to change.
    """
    asked = list(dict.fromkeys([questions] if isinstance(questions, str) else questions))
    if not (asked or table) or not all(text.strip() for text in asked):
        raise BadInput("Nothing to ask: give --question CONCEPT, e.g. --question cat.")
    for text in asked:
        if not is_path(text):
            check_one_name(text, "-q")
    path = None if out is None else Path(out)
    if path is not None:
        check_new_or_same(path, force)
    pictures = images_from(images, table)
    opened = open_judge(judge, asked, resolve_device(device), trust_torchscript) if isinstance(judge, str) else judge
    cells = _cells(opened) if table else {}
    asked = list(dict.fromkeys([*asked, *(text for of_row in cells.values() for text in of_row.values())]))
    if path is not None and path.is_file() and not force:
        _check_verdicts(path, opened, asked, pictures)
    thresholds = {text: opened.threshold(text) for text in asked if opened.knows(text)}
    skipped = skipped_files(Path(images), pictures) if isinstance(images, (str, Path)) else ()
    verdicts = judge_images(opened, pictures, asked, progress)
    existed = path is not None and write_or_compare(path, force, lambda file: write_verdicts(file, verdicts))
    counts = {text: _counts(pictures, [row for row in verdicts if row.question == text]) for text in asked}
    identity = JudgeIdentity(opened.name, opened.version, thresholds)
    runs = runs_in_one_folder(pictures)
    return JudgeResult(path, identity, counts, tuple(verdicts), skipped, runs, cells, existed)


def _check_verdicts(path: Path, judge: Judge, questions: Sequence[str], images: Sequence[Image]) -> None:
    """Check that an existing file has a judge's answers about these images, before they are computed and compared.

    Raises:
        BadFile: It has not.
    """
    try:
        rows = read_verdicts(path)
    except BadFile:
        raise exists_already(path) from None
    answered = [(row.judge, row.judge_version, row.file_name, row.question) for row in rows]
    names = [image.row["file_name"] for image in images]
    if answered != [(judge.name, judge.version, name, question) for name in names for question in questions]:
        raise exists_already(path)


def _cells(judge: Judge) -> dict[str, dict[str, str]]:
    """The questions of a judge's table, by row and column."""
    if not isinstance(judge, HasTable):
        raise BadInput(f"The judge '{judge.name}' has no table; use --table with --judge nudenet, or give --question.")
    return {row: dict(zip(judge.columns, questions, strict=True)) for row, questions in judge.table.items()}


def _counts(images: Sequence[Image], verdicts: Sequence[Verdict]) -> AnswerCounts:
    """The answers to one question, one verdict per image."""
    counts = Counter(verdict.answer for verdict in verdicts)
    rate = _rate(images, verdicts)
    return AnswerCounts(counts["yes"], counts["no"], counts["undecided"], counts["error"], counts["broken"], rate)


def _rate(images: Sequence[Image], verdicts: Sequence[Verdict]) -> Measured | None:
    """The rate of yes. Images of one prompt are one cluster; images of an unknown prompt are independent."""
    decided = [
        (image.row.get("prompt"), f"\0{index}", verdict.answer == "yes")
        for index, (image, verdict) in enumerate(zip(images, verdicts, strict=True))
        if verdict.answer in ("yes", "no")
    ]
    if not decided:
        return None
    outcomes = [float(yes) for _, _, yes in decided]
    if all(prompt is None for prompt, _, _ in decided):
        return rate_with_interval(by_prompt(outcomes, None))
    prompts = [own_cluster if prompt is None else str(prompt) for prompt, own_cluster, _ in decided]
    return rate_with_interval(by_prompt(outcomes, prompts))
