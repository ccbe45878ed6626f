"""The `unlearncanvas` protocol: every object in every style, generated and classified, with and without the eraser.

Zhang et al., "UnlearnCanvas: A Stylized Image Dataset for Enhanced Machine Unlearning Evaluation in Diffusion Models",
arXiv 2402.11846; https://github.com/OPTML-Group/UnlearnCanvas (machine_unlearning/evaluation). Of an erased object

    object_ua   1 - accuracy of the object, on its images in all styles
    object_ira  accuracy of the other objects, on theirs
    object_cra  accuracy of the styles, on all images

and so for an erased style (style_ua, style_ira, style_cra). `fid` and `kid` leave out the cells of what was erased.
`forget` and `retain` are ua and the two others together.

In a model's closed world the objects and styles are its own, and FID and KID are to the unedited model's images. On the
published data set (`--data FOLDER`, STYLE/OBJECT/NUMBER.jpg) prompts, seeds, sampler, steps and guidance are as
published, the labels are the folders', and FID and KID are to pictures 1 to 5 of each cell; the paper's classifiers are
two, so `-s objects=style:FOLDER` adds one for objects to the judge. The paper's FID is by torchvision's Inception,
which no extractor here is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import Field

from efface.errors import BadInput
from efface.generation import Job
from efface.judges import open_judge
from efface.judges.wrappers import JoinedJudge
from efface.metrics.features import Features
from efface.metrics.fid import fid, fid_statistic
from efface.metrics.kid import kid, kid_statistic
from efface.protocols.base import FORGET, RETAIN, EvaluationInput, Metric, PaperSampling, Protocol
from efface.protocols.image_scores import ImageScores, Vectors, common_images, distance, feature_scores, to_reference
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
from efface.protocols.world import DOMAINS, Domain, ObjectStyleGrid, grid_of, read_grid
from efface.request.record import Request
from efface.settings import Settings

SEEDS = (188, 288, 588, 688, 888)
GUIDANCE, PICTURES = 9.0, 5

Jobs = Mapping[tuple[str, str, int], Job]


class UnlearnCanvasConfig(Settings):
    """The settings.

    Attributes:
        objects: The judge of objects, where `--judge` knows styles only.
        extractor: The extractor of FID's and KID's features; empty for one that needs no download.
        only: Objects and styles, separated by commas: a smaller world, for a quick look.
        guidance: The guidance scale of all images; by default 9, as published, and in a closed world the model's own.
        draws: Number of resamples of the intervals of FID and KID; each costs as much as the distance.
    """

    objects: str = ""
    extractor: str = ""
    only: str = ""
    guidance: float | None = None
    draws: int = Field(default=50, ge=20)


def prepare(evaluation: EvaluationInput) -> Prepared:
    """Every cell, with a question for the object and one for the style."""
    config = UnlearnCanvasConfig.model_validate(evaluation.options)
    grid = _grid(evaluation).only([name.strip() for name in config.only.split(",") if name.strip()])
    judge = evaluation.judge
    if config.objects:
        alternatives, device = (*grid.objects, *grid.styles), str(evaluation.model.device)
        judge = JoinedJudge(judge, open_judge(config.objects, alternatives, device, evaluation.trust_torchscript))
    guidance = GUIDANCE if config.guidance is None and evaluation.world is None else config.guidance
    jobs = {
        (thing, style, k): Job(grid.prompt(thing, style), seed_of(k) + evaluation.seed, guidance, concept=thing)
        for thing, style in grid.cells()
        for k in range(evaluation.n)
    }
    plans = {name: _plan(request, grid, jobs) for name, request in evaluation.requests.items()}
    distances = _Distances(grid, plans, feature_scores(evaluation, config.extractor), config.draws)
    return Prepared(plans, judge, distances)


def _grid(evaluation: EvaluationInput) -> ObjectStyleGrid:
    if evaluation.data is not None:
        return read_grid(evaluation.data)
    if evaluation.world is None:
        raise BadInput(
            "The protocol 'unlearncanvas' needs the data set's folder: --data FOLDER (STYLE/OBJECT/NUMBER.jpg)."
        )
    return grid_of(evaluation.world)


def seed_of(k: int) -> int:
    """The k-th seed of a cell: the published ones, then further ones."""
    return SEEDS[k % len(SEEDS)] + 1000 * (k // len(SEEDS))


def _plan(request: Request, grid: ObjectStyleGrid, jobs: Jobs) -> Plan:
    erased = {grid.find(concept.name): concept for concept in request.concepts}
    probes: list[Probe] = []
    for (thing, style, _), job in jobs.items():
        for label in zip(DOMAINS, (thing, style), strict=True):
            if label in erased:
                probes.append(Probe("forget", label[1], job, erased[label].guide))
            else:
                probes.append(Probe("retain", label[1], job))
    labels: dict[Domain, set[str]] = {"object": set(grid.objects), "style": set(grid.styles)}
    rates: dict[str, Count] = {"forget": right_answers("forget"), "retain": right_answers("retain")}
    for domain, other in zip(DOMAINS, reversed(DOMAINS), strict=True):
        if not any(erased_domain == domain for erased_domain, _ in erased):
            continue
        rates[f"{domain}_ua"] = _right_among("forget", labels[domain])
        rates[f"{domain}_ira"] = _right_among("retain", labels[domain])
        rates[f"{domain}_cra"] = _right_among("retain", labels[other])
    return Plan(tuple(probes), rates)


def _right_among(metric: str, labels: set[str]) -> Count:
    def count(image: JudgedImage) -> float | None:
        return image.right if image.probe.metric == metric and image.probe.concept in labels else None

    return count


class _Distances:
    """FID and KID over the cells of which nothing was erased, to real pictures or else to the unedited model's."""

    def __init__(self, grid: ObjectStyleGrid, plans: Mapping[str, Plan], features: ImageScores, draws: int) -> None:
        self.grid, self.features, self.draws = grid, features, draws
        self.measures = {"fid": (fid, fid_statistic), "kid": (kid, kid_statistic())}
        self.probes = {name: plan.probes for name, plan in plans.items()}
        self.probes[BASE] = tuple(probe for plan in plans.values() for probe in plan.probes if probe.metric == "retain")
        # A picture that cannot be read is an error before anything is generated.
        if paths := self._pictures(set()):
            features.files(paths)

    def __call__(self, name: str, edited: ScoredImages, base: ScoredImages) -> tuple[dict[str, BeforeAfter], tuple[()]]:
        erased = {probe.job: probe.concept for probe in self.probes[name] if probe.metric == "forget"}
        jobs = dict.fromkeys(probe.job for probe in self.probes[name] if probe.job not in erased)
        after = self.features(edited, jobs)
        before = None if name == BASE else self.features(base, jobs)
        if self.grid.pictures:
            distances = self._to_pictures(after, before, set(erased.values()))
        else:
            distances = {} if before is None else self._to_unedited(after, before)
        return {metric: measured for metric, measured in distances.items() if measured}, ()

    def _to_pictures(self, after: Vectors, before: Vectors | None, erased: set[str]) -> dict[str, BeforeAfter | None]:
        paths = self._pictures(erased)
        if len(paths) < 2:
            return {}
        real = Features(self.features.files(paths), self.features.version)
        return {
            metric: to_reference(partial(measure, draws=self.draws), weighted, after, before, real, self.draws)
            for metric, (measure, weighted) in self.measures.items()
        }

    def _pictures(self, erased: set[str]) -> list[Path]:
        """The data set's pictures of the cells that show nothing erased."""
        cells = [cell for cell in self.grid.cells() if not erased & set(cell)]
        return [path for cell in cells for path in self.grid.pictures.get(cell, ())[:PICTURES]]

    def _to_unedited(self, after: Vectors, before: Vectors) -> dict[str, BeforeAfter | None]:
        sets, distances = common_images(after, before), dict[str, BeforeAfter | None]()
        for metric, (measure, _) in self.measures.items():
            value = distance(partial(measure, draws=self.draws), *sets, self.features.version)
            distances[metric] = value and BeforeAfter(
                replace(value, note=f"to the unedited model's images, {value.note}")
            )
        return distances


def _metrics(domain: Domain, other: Domain) -> tuple[Metric, ...]:
    return (
        Metric(f"{domain}_ua", f"the erased {domain} is absent from images prompted for it", axis="forgetting"),
        Metric(f"{domain}_ira", f"other {domain}s are found where they are prompted", axis="retention"),
        Metric(f"{domain}_cra", f"{other}s are found where they are prompted"),
    )


ENTRY = Protocol(
    name="unlearncanvas",
    summary="unlearning, in-domain and cross-domain accuracy over objects and styles, FID and KID; -n images a cell",
    paper="https://arxiv.org/abs/2402.11846",
    metrics=(
        *_metrics("object", "style"),
        *_metrics("style", "object"),
        *(Metric(name, "distance to other pictures", unit="", better="lower") for name in ("fid", "kid")),
        FORGET,
        RETAIN,
    ),
    prepare=prepare,
    n=len(SEEDS),
    config=UnlearnCanvasConfig,
    reads=("data",),
    published=PaperSampling("ddim", 100, GUIDANCE, with_data=True),
)
