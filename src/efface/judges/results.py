"""The files of results that a judge's users expect beside efface's own, also where other judges ask it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from efface.generate.folder import Image
from efface.judges.base import Judge, KeepsResults, PassesOn
from efface.judges.verdicts import Verdict


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
