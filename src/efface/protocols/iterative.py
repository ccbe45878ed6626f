"""The `iterative` protocol: concepts are erased and restored one after the other; what does each event change?

The scenario of SepCE (Zhao et al., "Separable Multi-Concept Erasure from Diffusion Models", arXiv 2402.05947;
https://github.com/Dlut-lab-zmn/SepCE4MU): erasers of several concepts, of which single ones are restored later. Each
eraser must have all concepts of the events (`efface compose`, or `efface erase --after`). After each event the concepts
that are erased then are attached, and measured is, for each concept of the events and for some others,

    accuracy_CONCEPT   share of the images prompted for it in which the judge finds it
    lpips_CONCEPT      mean LPIPS between its images before and after, of one prompt and seed
    distance_CONCEPT   without LPIPS' weights, 1 - cos of features in its place
    kid_CONCEPT        KID of its images to those of the unedited model; `-s set_distance=fid`: `fid_CONCEPT`

`forget` and `retain` sum up the concepts that are erased and those that are not. The report has a figure of each number
over time. Results have one entry for each event, "NAME 1", "NAME 2" and so on.

`-s events="erase cat; erase dog; restore cat"` gives the events, or a file with one per line. By default all concepts
are erased one after the other, and the first one is restored. `-s others="apple, church"` names concepts of no event;
by default they are three objects of the closed world. `-n` images of each concept, with the same prompts and seeds at
all times. LPIPS is set as in `style`. The paper generates 250 images of each bare name, with 5 samples of 50 seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal

from efface.generation import Job
from efface.judges.wrappers import WithPeers
from efface.metrics.fid import fid
from efface.metrics.kid import kid
from efface.protocols.base import FORGET, RETAIN, EvaluationInput, Metric, Protocol
from efface.protocols.err import probes_of
from efface.protocols.events import default_events, erasers_after, read_events
from efface.protocols.image_scores import DRAWS, ImageScores, common_images, distance, feature_scores, mean_score
from efface.protocols.plan import (
    BASE,
    BeforeAfter,
    Count,
    JudgedImage,
    Plan,
    Prepared,
    Probe,
    ScoredImages,
    right_answers,
)
from efface.protocols.style import PairDistance, StyleConfig, pair_distance
from efface.request.record import Concept, Request, folded
from efface.settings import Scalar

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model

_OTHERS = 3


class IterativeConfig(StyleConfig):
    """The settings; see `StyleConfig` for those of LPIPS.

    Attributes:
        events: The events, or a file of them; empty for the default.
        others: Concepts of no event, separated by commas; empty for the default.
        set_distance: The distance between sets of images.
    """

    events: str = ""
    others: str = ""
    set_distance: Literal["kid", "fid"] = "kid"


def states(erasers: Mapping[str, Eraser], options: Mapping[str, Scalar], model: Model) -> dict[str, Eraser]:
    """The eraser after each event, for each scenario.

    Args:
        erasers: By name, an eraser of all concepts.
        options: The settings.
        model: The unedited model.

    Raises:
        BadInput: The events cannot be read, or do not fit an eraser.
    """
    config = IterativeConfig.model_validate(options)
    events = read_events(config.events) if config.events else None
    result: dict[str, Eraser] = {}
    for name, eraser in erasers.items():
        result |= erasers_after(name, eraser, events or default_events(eraser.concepts), model)
    return result


def prepare(evaluation: EvaluationInput) -> Prepared:
    """The same images for every event; what is erased then decides which answer is right."""
    config = IterativeConfig.model_validate(evaluation.options)
    concepts = {
        folded(concept.name): concept for request in evaluation.requests.values() for concept in request.concepts
    }
    concepts |= {folded(name): Concept(name=name) for name in _others(evaluation, config, concepts)}
    jobs = {concept.name: _jobs(evaluation, concept) for concept in concepts.values()}
    rates = {"forget": right_answers("forget"), "retain": right_answers("retain")}
    rates |= {f"accuracy_{name}": _shown(name) for name in jobs}
    plans: dict[str, Plan] = {}
    for name, request in evaluation.requests.items():
        erased = {folded(concept.name): concept.guide for concept in request.concepts}
        plans[name] = Plan(
            tuple(
                Probe("forget" if folded(one) in erased else "retain", one, job, erased.get(folded(one)))
                for one, of_one in jobs.items()
                for job in of_one
            ),
            rates,
        )
    judge = evaluation.judge
    if not any(judge.peers(name) for name in jobs):
        judge = WithPeers(judge, jobs)
    features = feature_scores(evaluation, config.extractor)
    return Prepared(plans, judge, _Distances(jobs, pair_distance(evaluation, config), features, config.set_distance))


def _others(evaluation: EvaluationInput, config: IterativeConfig, concepts: Mapping[str, Concept]) -> list[str]:
    """Concepts of no event."""
    if config.others:
        return [name for name in filter(None, map(str.strip, config.others.split(","))) if folded(name) not in concepts]
    world = evaluation.world
    things = [thing for thing in world.objects if not concepts.keys() & set(map(folded, thing.words))] if world else []
    return list(islice((thing.name for thing in things if evaluation.judge.knows(thing.name)), _OTHERS))


def _jobs(evaluation: EvaluationInput, concept: Concept) -> list[Job]:
    """The images of one concept."""
    request = Request(concepts=(concept,))
    probes = probes_of(request, evaluation.world, evaluation.n, evaluation.seed)
    return [probe.job for probe in probes if probe.metric == "forget"]


def _shown(name: str) -> Count:
    """Count the share of a concept's images in which the judge finds it."""

    def count(image: JudgedImage) -> float | None:
        return float(bool(image.shows)) if image.probe.concept == name else None

    return count


class _Distances:
    """The distances of each concept's images to those of the unedited model.

    Args:
        jobs: The images of each concept.
        pairs: The distance of pairs of images: its name, its version and its function.
        features: The features of the distance between sets.
        of_sets: Its name.
    """

    def __init__(
        self,
        jobs: Mapping[str, Sequence[Job]],
        pairs: tuple[str, str, PairDistance],
        features: ImageScores,
        of_sets: Literal["kid", "fid"],
    ) -> None:
        self._jobs, self._features, self._of_sets = jobs, features, of_sets
        self._name, self._version, self._distance = pairs
        self._measure = partial(kid if of_sets == "kid" else fid, draws=DRAWS)

    def __call__(self, name: str, edited: ScoredImages, base: ScoredImages) -> tuple[dict[str, BeforeAfter], set[Job]]:
        numbers: dict[str, BeforeAfter | None] = {}
        unread: set[Job] = set()
        for concept, jobs in self._jobs.items():
            after = self._features(edited, jobs)
            unread |= set(jobs) - after.keys()
            if name == BASE:
                continue
            x, y = common_images(after, self._features(base, jobs))
            moved = {
                job: float(self._distance([edited.images[job].pixels()], [base.images[job].pixels()])[0]) for job in x
            }
            numbers[f"{self._name}_{concept}"] = mean_score(self._version, moved)
            if value := distance(self._measure, x, y, self._features.version):
                # Resamples of very few images are all equal up to rounding.
                low, high = min(value.low, value.value), max(value.high, value.value)
                numbers[f"{self._of_sets}_{concept}"] = BeforeAfter(replace(value, low=low, high=high))
        return {metric: measured for metric, measured in numbers.items() if measured}, unread


def _metric(name: str, meaning: str, unit: str = "") -> Metric:
    return Metric(f"{name}_CONCEPT", meaning, unit, "lower")


ENTRY = Protocol(
    name="iterative",
    summary="erasing and restoring over time (-s events=...): accuracy, LPIPS and KID or FID of each concept",
    paper="https://arxiv.org/abs/2402.05947",
    metrics=(
        FORGET,
        RETAIN,
        Metric("accuracy_CONCEPT", "the concept is found where it is prompted, whether it is erased then or not"),
        _metric("lpips", "how far the concept's images moved from the unedited model's"),
        _metric("distance", "how far the concept's images moved from the unedited model's, by features"),
        _metric("kid", "KID of the concept's images to the unedited model's"),
        _metric("fid", "FID of the concept's images to the unedited model's"),
    ),
    prepare=prepare,
    n=50,
    least=2,
    config=IterativeConfig,
    states=states,
)
