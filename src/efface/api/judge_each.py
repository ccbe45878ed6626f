"""`efface.judge_each`: the images of a dataset, each asked about its concept, by any number of processes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.judge import JudgeIdentity
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.crew import Crew
from efface.errors import BadFile
from efface.files import exists_already, slug
from efface.generation.dataset import read_concepts
from efface.generation.folder import ERRORS, Image, read_folders
from efface.image_files import is_picture
from efface.judges import Judge, judge_images, open_judge, read_verdicts, write_verdicts
from efface.judges.shared.unknown import unrecognised
from efface.models.runtime import resolve_device
from efface.protocols.evaluation_results import JOINT, RESULTS, ResultRow, rates_of_models, read_results, write_results
from efface.request.names import name_key
from efface.rerun import check_new_or_same, write_or_compare
from efface.workers import LOGS, Worker, share_items

if TYPE_CHECKING:
    import torch

    from efface.metrics.base import Measured
    from efface.progress import Progress

#: The folder of verdicts in the folder of images.
VERDICTS = "verdicts"


@dataclass(frozen=True)
class ChallengeResult(VerbResult):
    """The answers about the images of several edited models, and their rates.

    Attributes:
        path: The file `evaluation_results.csv`.
        rows: Its rows.
        judge: The judge; None for results that were read from a file.
        skipped: Folders whose name is no concept of the dataset.
        failures: The error of each folder that could not be judged, by name. With one, no file is written.
        existed: Whether the same file was there before, so that nothing was written.
    """

    path: Path
    rows: tuple[ResultRow, ...]
    judge: JudgeIdentity | None = None
    skipped: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    existed: bool = False

    @cached_property
    def models(self) -> dict[str, dict[str, Measured]]:
        """The rates of each model by its concept: forget, indirect, adversarial, retain, adjacent and err."""
        return rates_of_models(self.rows)

    @property
    def errors(self) -> int:
        """The number of images without an answer."""
        return sum(row.response == "error" for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The object that `efface judge --json` prints; the rows are given by their file."""
        models = {
            name: {"metrics": {metric: rate.as_dict() for metric, rate in rates.items()}}
            for name, rates in self.models.items()
        }
        return {
            "results": str(self.path),
            "judge": self.judge and self.judge.to_json(),
            "models": models,
            "errors": self.errors,
            "skipped": list(self.skipped),
            "failures": dict(self.failures),
            "existed": self.existed,
        }


@none_is_not_given
def judge_each(
    folder: Path | str,
    dataset: Path | str,
    *,
    concept_column: str | None = None,
    judge: Judge | str = "emoji",
    out: Path | str | None = None,
    trust_torchscript: bool = False,
    device: str | torch.device = "auto",
    force: bool = False,
    crew: Crew | None = None,
    progress: Progress | None = None,
) -> ChallengeResult:
    """Ask about each image whether it shows the concept that its folder is named after.

    The folders are those of `efface.generate_each` and of entries to the U&ME challenge: `folder/EDITED
    CONCEPT/PROMPTED CONCEPT`. The answers are written to one file for all models, `evaluation_results.csv`.

    Any number of processes can call this with the same folder: each takes the next folder that no other process judges.
    The verdicts of a folder are stored when it is complete, and are not computed again as long as its images and the
    judge are the same.

    Example:
        >>> efface.judge_each("images", "challenge.csv").models["cat"]["err"].value
        0.97

    Args:
        folder: The folder of the images.
        dataset: The CSV that names the concepts.
        concept_column: The column of concepts. By default, it is found by its name or its words.
        judge: A judge, or its name (`efface judges`).
        out: The file of results; by default `evaluation_results.csv` in `folder`.
        trust_torchscript: Whether the judge's TorchScript file, which is a program, may be run.
        device: The device to open a judge's name on.
        force: Whether an existing file of results may be replaced.
        crew: The processes that share the work; by default this one, and those that a launcher started.
        progress: The progress callback; it covers the folders of all processes.

    Raises:
        BadInput: The images, the dataset or the judge cannot be used; the message says what to change.
    """
    folder, crew = Path(folder), crew or Crew(Worker.current())
    path = folder / RESULTS if out is None else Path(out)
    names = [concept.name for concept in read_concepts(Path(dataset), concept_column)]
    sets, skipped = _image_sets(folder, names)
    if not sets:
        raise BadFile(f"{folder} has no folders EDITED CONCEPT/PROMPTED CONCEPT of the concepts in {dataset}.")
    if crew.worker.rank == 0:  # another process may start when the work is complete
        check_new_or_same(path, force)
    concepts = list(dict.fromkeys(one.concept for one in sets.values()))
    with crew.started(folder / LOGS):
        opened = judge
        if isinstance(opened, str):
            opened = open_judge(opened, names, resolve_device(device), trust_torchscript)
        unknown = [concept for concept in concepts if not opened.knows(concept)]
        if unknown:
            raise unrecognised(opened, unknown[0], "choose a judge that can")
        verdicts = folder / VERDICTS / _folder_of(opened)
        if path.is_file() and not force and not all(one.is_judged(verdicts) for one in sets.values()):
            raise exists_already(path)

    def judge_set(name: str) -> None:
        one = sets[name]
        rows = judge_images(opened, one.images(), [one.concept])
        target = one.verdicts(verdicts)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_verdicts(target, rows)

    failures = share_items(
        folder / LOGS,
        list(sets),
        lambda name: sets[name].is_judged(verdicts),
        judge_set,
        worker=crew.worker,
        what="folders of images",
        progress=progress,
    )
    rows = tuple(row for name, one in sets.items() if name not in failures for row in one.rows(verdicts))
    existed = False
    if crew.worker.rank == 0 and not failures:
        existed = write_or_compare(path, force, lambda file: write_results(file, rows))
    identity = JudgeIdentity(opened.name, opened.version, {concept: opened.threshold(concept) for concept in concepts})
    return ChallengeResult(path, rows, identity, skipped, failures, existed)


def read_challenge_results(path: Path | str) -> ChallengeResult:
    """Read a file `evaluation_results.csv`, of efface or of an entry to the U&ME challenge.

    Raises:
        BadFile: The file cannot be read, or is not such a file.
    """
    return ChallengeResult(Path(path), tuple(read_results(Path(path))))


@dataclass(frozen=True)
class _ImageSet:
    """The images of one model that were prompted for one concept."""

    folder: Path
    model: str
    concept: str

    def images(self) -> list[Image]:
        """The images, also those of subfolders."""
        return read_folders(self.folder)

    def verdicts(self, folder: Path) -> Path:
        return folder / self.folder.parent.name / f"{self.folder.name}.parquet"

    def is_judged(self, folder: Path) -> bool:
        """Whether there are verdicts on exactly these images, and none of these is newer."""
        path = self.verdicts(folder)
        if not path.exists():
            return False
        images, moment = self.images(), path.stat().st_mtime_ns
        try:
            stored = [verdict.file_name for verdict in read_verdicts(path)]
        except BadFile:
            return False
        return stored == [image.row["file_name"] for image in images] and all(
            image.path is None or not image.path.exists() or image.path.stat().st_mtime_ns <= moment for image in images
        )

    def rows(self, folder: Path) -> list[ResultRow]:
        """The rows of the file of results; an image without a prompt type counts as directly prompted."""
        kinds = {image.row["file_name"]: image.row.get("prompt_type") or "direct" for image in self.images()}
        return [
            ResultRow(Path(row.file_name).name, self.model, self.concept, kinds[row.file_name], row.answer)
            for row in read_verdicts(self.verdicts(folder))
        ]


def _image_sets(folder: Path, concepts: list[str]) -> tuple[dict[str, _ImageSet], tuple[str, ...]]:
    """The folders of images by the names of their items, in the order of the concepts, and the skipped folders."""
    if not folder.is_dir():
        raise BadFile(f"Cannot read images from {folder}: it is not a folder.")
    names = {name_key(concept): concept for concept in concepts}
    order = {key: place for place, key in enumerate(names)}
    sets: dict[str, _ImageSet] = {}
    skipped: list[str] = []
    for edited in sorted(_folders(folder), key=lambda path: (order.get(name_key(path.name), len(order)), path.name)):
        if edited.name in (LOGS, VERDICTS):
            continue
        model = JOINT.join(names.get(name_key(part), part) for part in edited.name.split(JOINT))
        for prompted in sorted(_folders(edited), key=lambda path: (order.get(name_key(path.name), -1), path.name)):
            one = _ImageSet(prompted, model, names.get(name_key(prompted.name), ""))
            if one.concept and _has_images(prompted):
                sets[f"{edited.name} prompted for {prompted.name}, judged"] = one
            else:
                skipped.append(f"{edited.name}/{prompted.name}")
    return sets, tuple(skipped)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _has_images(folder: Path) -> bool:
    return any(path.name == ERRORS or is_picture(path) for path in folder.rglob("*"))


def _folder_of(judge: Judge) -> str:
    """The name of the folder of a judge's verdicts."""
    return f"{slug(judge.name)}-{hashlib.sha256(judge.version.encode()).hexdigest()[:8]}"
