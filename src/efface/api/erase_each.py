"""`efface.erase_each`: one eraser per concept of a dataset, by any number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efface.api.arguments import model_from
from efface.api.erase import erase
from efface.api.erasers import default_name
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.crew import Crew
from efface.errors import BadFile, BadInput
from efface.generation.dataset import DatasetConcept, read_concepts
from efface.methods import METHODS
from efface.progress import RunContext
from efface.request.record import KINDS, REFERENCE_KINDS, Request
from efface.workers import LOGS, Worker, share_items

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from efface.api.arguments import DeviceLike, ModelLike
    from efface.models import Model
    from efface.progress import Progress
    from efface.settings import Scalar


@dataclass(frozen=True)
class EraseEachResult(VerbResult):
    """Erasers of a dataset.

    Attributes:
        folder: Their folder, with the logs in its folder `logs`.
        erasers: The file of each concept's eraser, by concept.
        new: Concepts whose eraser was missing before this run.
        failures: The error of each concept whose eraser could not be made, by concept.
    """

    folder: Path
    erasers: dict[str, Path]
    new: tuple[str, ...]
    failures: dict[str, str]


@none_is_not_given
def erase_each(
    dataset: Path | str,
    folder: Path | str,
    to: str | None = None,
    *,
    concept_column: str | None = None,
    model: ModelLike = "emoji",
    method: str = "uce",
    kind: str | None = None,
    preserve: Sequence[str] = (),
    seed: int | None = None,
    device: DeviceLike = "auto",
    force: bool = False,
    crew: Crew | None = None,
    progress: Progress | None = None,
    settings: Mapping[str, Scalar] | None = None,
) -> EraseEachResult:
    """Make one eraser for each distinct concept of a dataset. Existing erasers are skipped.

    Any number of processes can call this with the same folder: each makes the erasers that no other process makes, and
    returns when all are made. The failure of one concept does not stop the others.

    Example:
        >>> efface.erase_each("challenge.csv", "erasers").failures
        {}

    Args:
        dataset: A CSV, TSV or JSON file with a column `concept` or
            `concept_name`, and optionally `guide` and `concept_type`.
        folder: The folder of the erasers, created if it is missing.
        to: The guide of all concepts that have none in the file; without one, the method's default.
        concept_column: The column of concepts; by default, it is found by its name or its words.
        model: An open model, a diffusers pipeline, or the name, folder or file of a model.
        method: The name of the method.
        kind: The kind of all concepts; by default that of the file, else object.
        preserve: Prompts to preserve; a concept is erased without itself in this list.
        seed: The seed of a method that draws random numbers.
        device: The device to open a model's name on, or an `efface.Runtime`.
        force: Whether existing erasers are replaced.
        crew: The processes that share the work; by default this one, and those that a launcher started.
        progress: The progress callback; it covers the erasers of all processes.
        settings: The method's own settings.

    Raises:
        BadInput: The dataset, the method, a setting or the folder cannot be used; the message says what to change.
    """
    folder, crew = Path(folder), crew or Crew(Worker.current())
    concepts = read_concepts(Path(dataset), concept_column)
    requests = _requests(Path(dataset), concepts, to, kind, preserve, method, settings or {})
    paths = {name: folder / f"{default_name(request)}.safetensors" for name, request in requests.items()}
    if len(set(paths.values())) < len(paths):
        raise BadFile(f"{dataset}: two concepts have the same letters in ASCII, and their erasers the same file name.")
    if folder.exists() and not folder.is_dir():
        raise BadFile(f"Cannot write erasers to {folder}: it is a file; give a folder with -o.")
    missing = [name for name, path in paths.items() if force or not path.exists()]
    opened: Model | None = None
    if missing:  # a wrong model is an error before an eraser is written
        with crew.started(folder / LOGS):
            opened = model_from(model, device)

    def is_done(name: str) -> bool:
        path = paths[name]
        return path.exists() and (not force or path.stat().st_mtime >= crew.worker.started)

    def make(name: str) -> None:
        assert opened is not None
        checkpoints = paths[name].with_suffix(".training")
        context = RunContext(checkpoints, force=force)
        erase(opened, requests[name], seed=seed, context=context).save(paths[name], force=True)
        if METHODS.get(method).trained:
            from efface.methods.training.checkpoints import discard

            discard(checkpoints)

    failures = share_items(
        folder / LOGS, list(paths), is_done, make, worker=crew.worker, what="erasers", progress=progress
    )
    new = tuple(name for name in missing if name not in failures)
    return EraseEachResult(folder, {n: p for n, p in paths.items() if n not in failures}, new, failures)


def _requests(
    dataset: Path,
    concepts: Sequence[DatasetConcept],
    to: str | None,
    kind: str | None,
    preserve: Sequence[str],
    method: str,
    options: Mapping[str, Scalar],
) -> dict[str, Request]:
    """One request per concept, by name."""
    METHODS.get(method).config.model_validate(options)
    requests: dict[str, Request] = {}
    for concept in concepts:
        others = [prompt for prompt in preserve if prompt.casefold() != concept.name.casefold()]
        guide = concept.guide or to
        try:
            requests[concept.name] = Request.make(
                concept.name, guide or (), kind=kind or _kind(concept), preserve=others, method=method, options=options
            )
        except BadInput as error:
            raise BadInput(f"{dataset}: {error}") from error
    return requests


def _kind(concept: DatasetConcept) -> str:
    """The kind of a concept in the words of requests; a word that is no kind, such as "celebrity", is an object."""
    word = concept.kind.casefold()
    return word if word in KINDS or word in REFERENCE_KINDS else "object"
