"""The report's files: the page for people, the same content as JSON for programs, and the numbers as CSV."""

from __future__ import annotations

import csv
import json
import math
from functools import cache
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

from efface.errors import BadFile
from efface.files import atomic, why_not_written
from efface.json_writing import json_text
from efface.parsing import read_json
from efface.protocols import Evaluation, JudgedImage
from efface.report.page import page

PAGE, DOCUMENT, TABLE = "report.html", "report.json", "results.csv"
FORMAT = 1
_ONLY_IN_DOCUMENT = ("format", "shots", "unread")


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of `report.json`."""
    return json.loads(files("efface.report").joinpath("schema.json").read_text(encoding="utf-8"))


def document(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """The content of `report.json`: the evaluation, and every image with its verdict or why it has none.

    Args:
        evaluation: The evaluation.
        folder: The report's folder; paths of images are relative to it.
    """
    return {
        "format": FORMAT,
        **evaluation.as_dict(),
        "shots": {
            name: [_image(image, folder) for image in result.images] for name, result in evaluation.erasers.items()
        },
        "unread": {
            name: [
                {"prompt": image.job.prompt, "seed": image.job.seed, "error": image.error}
                for image in result.failed_images
            ]
            for name, result in evaluation.erasers.items()
        },
    }


def stored_evaluation(folder: Path) -> dict[str, Any]:
    """What `Evaluation.to_json` gave for the evaluation whose complete report is in a folder.

    Raises:
        BadFile: The report cannot be read.
    """
    content = read_json(folder / DOCUMENT, "the result")
    return {name: value for name, value in content.items() if name not in _ONLY_IN_DOCUMENT} | {
        "report": str(folder / PAGE)
    }


def write_report(evaluation: Evaluation, folder: Path, title: str | None = None) -> Path:
    """Write `report.html`, `report.json` and `results.csv`; each is either complete or absent.

    Args:
        evaluation: The evaluation.
        folder: The report's folder; created if it is missing.
        title: The page's heading; by default it names what was erased.

    Returns:
        The path of the page.

    Raises:
        BadFile: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"Cannot write to {folder}: {why_not_written(error)}.") from error
    content = json_text(document(evaluation, folder), indent=1)
    html = page(evaluation, title)
    # The page comes last: if it exists, the report is complete.
    for name, text in ((DOCUMENT, content + "\n"), (TABLE, results_table(evaluation)), (PAGE, html)):
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / PAGE


def results_table(evaluation: Evaluation) -> str:
    """The content of `results.csv`: a row for each eraser and metric, with its 95% interval."""
    text = StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("eraser", "metric", "value", "low", "high", "n", "extractor"))
    for name, result in evaluation.erasers.items():
        for metric, number in result.metrics.items():
            rows.writerow((name, metric, number.value, number.low, number.high, number.n, number.extractor))
    return text.getvalue()


def _image(image: JudgedImage, folder: Path) -> dict[str, Any]:
    probe = image.probe
    return {
        "file": None if image.path is None else _relative(image.path, folder),
        "metric": probe.metric,
        "concept": probe.concept,
        "guide": probe.guide,
        "attack": probe.attack,
        "prompt": probe.job.prompt,
        "seed": probe.job.seed,
        "found": image.shows,
        "score": image.score if math.isfinite(image.score) else None,
        "saw": image.recognised,
        "went": image.destination,
        "error": image.error,
    }


def _relative(path: Path, folder: Path) -> str:
    """A path relative to the report, or its name alone if it is elsewhere: no report names folders of a user's disk."""
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return path.name
