"""The report's files: the page for people, and the same content as JSON for programs."""

import json
import math
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from efface.errors import BadFile
from efface.files import atomic
from efface.protocols import Evaluation, Shot
from efface.report.page import page

PAGE, DOCUMENT = "report.html", "report.json"
FORMAT = 1


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of `report.json`."""
    return json.loads(files("efface.report").joinpath("schema.json").read_text(encoding="utf-8"))


def document(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """What `report.json` holds: the evaluation's answer, and every image with its verdict or why it has none.

    Args:
        evaluation: what was measured.
        folder: where the report lies; paths of images are given from there.
    """
    return {
        "format": FORMAT,
        **evaluation.as_dict(),
        "shots": {name: [_shot(shot, folder) for shot in result.shots] for name, result in evaluation.results.items()},
        "unread": {
            name: [{"prompt": one.job.prompt, "seed": one.job.seed, "error": one.error} for one in result.unread]
            for name, result in evaluation.results.items()
        },
    }


def _shot(shot: Shot, folder: Path) -> dict[str, Any]:
    probe = shot.probe
    return {
        "file": None if shot.path is None else _from(folder, shot.path),
        "metric": probe.metric,
        "concept": probe.concept,
        "guide": probe.guide,
        "attack": probe.attack,
        "prompt": probe.job.prompt,
        "seed": probe.job.seed,
        "found": shot.found,
        "score": shot.score if math.isfinite(shot.score) else None,
        "saw": shot.saw,
        "went": shot.went,
        "error": shot.error,
    }


def _from(folder: Path, path: Path) -> str:
    """A path as seen from the report, or its name alone where it lies elsewhere: no report tells of a user's disk."""
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return path.name


def write_report(evaluation: Evaluation, folder: Path, title: str | None = None) -> Path:
    """Write `report.html` and `report.json`; both appear whole or not at all.

    Args:
        evaluation: what was measured.
        folder: where to; made if need be.
        title: the page's heading.

    Returns:
        Where the page is.

    Raises:
        BadFile: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"Cannot write to {folder}: {error.strerror}.") from error
    content = json.dumps(document(evaluation, folder), ensure_ascii=False, indent=1, allow_nan=False)
    html = page(evaluation, title)
    # The page comes last: where it is, the report is complete.
    for name, text in ((DOCUMENT, content + "\n"), (PAGE, html)):
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / PAGE
