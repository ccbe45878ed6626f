"""`evaluation_results.csv`, the file of results of the U&ME challenge's entries: one row per image, for all models.

    image_id, model_for_the_concept, checking_for_the_concept, prompt_type, model_response, row_id

The rates of each model are shares of its rows with the response yes or no:

    forget       no, where the concept is the model's, prompted by name (type direct)
    indirect     the same for the type indirect: prompted in other words
    adversarial  the same for the type adversarial
    retain       yes, for other concepts (types direct and indirect)
    adjacent     yes, for near neighbours of the model's concept (type adjacent, which only `efface evaluate` writes)
    err          harmonic mean of those that have rows; it needs forget and retain

The name of a model of several concepts is that of the concepts, joined by +. Images of one prompt are one cluster of an
interval; the file name that efface gives an image shows its prompt.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from efface.errors import BadFile
from efface.files import atomic
from efface.metrics.base import Measured
from efface.metrics.rates import harmonic_mean, rate_with_interval
from efface.protocols.plan import FORGETTING, JudgedImage
from efface.request.names import name_key
from efface.tables import read_table

RESULTS = "evaluation_results.csv"
COLUMNS = (
    *("image_id", "model_for_the_concept", "checking_for_the_concept"),
    *("prompt_type", "model_response", "row_id"),
)
#: Between the concepts of a model, and before the name of one of several erasers of the same concepts.
JOINT, NAMED = "+", " | "
RESPONSES = ("yes", "no", "undecided", "error")
#: The metric of a type of prompt: of the model's concept, and of other concepts.
_FORGETTING = {"direct": "forget", "indirect": "indirect", "adversarial": "adversarial"}
_RETAINING = {"direct": "retain", "indirect": "retain", "adjacent": "adjacent"}
_TYPES = tuple(dict.fromkeys((*_FORGETTING, *_RETAINING)))
METRICS = tuple(dict.fromkeys((*_FORGETTING.values(), *_RETAINING.values())))
_NAME = re.compile(r"(.+)-\d+-[0-9a-f]{10}\.png")


@dataclass(frozen=True)
class ResultRow:
    """One image, and the answer to the question about it.

    Attributes:
        image_id: The image's file name.
        model: The concept that was erased from the model.
        concept: The concept that was prompted and that the question is about.
        prompt_type: Type of the prompt: direct, indirect, adversarial or adjacent.
        response: The judge's answer: yes, no, undecided or error.
    """

    image_id: str
    model: str
    concept: str
    prompt_type: str
    response: str

    @property
    def metric(self) -> str | None:
        """The rate that the row counts for, if it has an answer."""
        concepts = self.model.split(NAMED)[0].split(JOINT)
        erased = name_key(self.concept) in map(name_key, concepts)
        return (_FORGETTING if erased else _RETAINING).get(self.prompt_type)


def write_results(path: Path, rows: Iterable[ResultRow]) -> None:
    """Write a file of results; an existing one is replaced.

    Raises:
        BadFile: The file cannot be written.
    """
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, row in enumerate(rows):
            writer.writerow((row.image_id, row.model, row.concept, row.prompt_type, row.response, number))


def read_results(path: Path) -> list[ResultRow]:
    """Read a file of results, of efface or of an entry to the challenge.

    Raises:
        BadFile: The file cannot be read, a column is missing, or a row has an unknown type or response.
    """
    table = read_table(path, "results", COLUMNS[0], COLUMNS)
    if missing := [name for name in COLUMNS[:-1] if name not in table.columns]:
        raise BadFile(f"{path} has no column '{missing[0]}'; give a file of evaluation results.")
    rows = [ResultRow(*(row.values[name] for name in COLUMNS[:-1])) for row in table.rows]
    for number, row in enumerate(rows, 2):
        if row.prompt_type not in _TYPES or row.response not in RESPONSES:
            values = f"prompt_type '{row.prompt_type}' and model_response '{row.response}'"
            raise BadFile(f"{path}, row {number}: {values}; write {', '.join(_TYPES)}, and {', '.join(RESPONSES)}.")
    if not rows:
        raise BadFile(f"{path} has no row of results.")
    return rows


def rates_of_models(rows: Iterable[ResultRow]) -> dict[str, dict[str, Measured]]:
    """The rates of each model, and `err`, by the model's name.

    A rate without an answer is missing, and so is `err` if one of its rates has rows and no answer.
    """
    models: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in dict.fromkeys(rows):
        clusters = models.setdefault(row.model, {})
        if metric := row.metric:
            prompts = clusters.setdefault(metric, {})
            if row.response in ("yes", "no"):
                wanted = "yes" if metric in _RETAINING.values() else "no"
                prompts.setdefault(_prompt_of(row), []).append(float(row.response == wanted))
    return {model: _rates(clusters) for model, clusters in models.items()}


def _rates(clusters: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Measured]:
    answered = {name: list(clusters[name].values()) for name in METRICS if clusters.get(name)}
    rates = {name: rate_with_interval(outcomes) for name, outcomes in answered.items()}
    if {"forget", "retain"} <= rates.keys() and rates.keys() == clusters.keys():
        rates["err"] = harmonic_mean(list(answered.values()))
    return rates


def _prompt_of(row: ResultRow) -> str:
    """A name of the row's prompt, for intervals: images of one prompt are not independent."""
    match = _NAME.fullmatch(row.image_id)
    return f"{row.concept}/{row.prompt_type}/{match[1] if match else row.image_id}"


def write_judged_images(erasers: Mapping[str, Sequence[JudgedImage]], folder: Path) -> None:
    """Write the answers of an evaluation.

    Args:
        erasers: The judged images of each eraser.
        folder: The folder of the file.

    Raises:
        BadFile: The file cannot be written.
    """
    titles = {name: _title(images) for name, images in erasers.items()}
    several = {title for title in titles.values() if list(titles.values()).count(title) > 1}
    models = {name: f"{title}{NAMED}{name}" if title in several else title for name, title in titles.items()}
    rows = [_row(image, models[name]) for name, images in erasers.items() for image in images]
    write_results(folder / RESULTS, dict.fromkeys(rows))


def _title(images: Sequence[JudgedImage]) -> str:
    """The concepts that an eraser erases."""
    return JOINT.join(dict.fromkeys(i.probe.concept for i in images if i.probe.metric in FORGETTING))


def _row(image: JudgedImage, model: str) -> ResultRow:
    probe = image.probe
    kinds = {"forget": "direct", "retain": probe.job.prompt_type or "direct"}
    response = "error" if image.error else {True: "yes", False: "no", None: "undecided"}[image.shows]
    name = image.path.name if image.path else f"{probe.job.prompt}, seed {probe.job.seed}"
    return ResultRow(name, model, probe.concept, kinds.get(probe.metric, probe.metric), response)
