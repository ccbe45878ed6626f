"""The `unlearncanvas` protocol: every object in every style, drawn and classified, with and without the eraser.

Zhang et al., "UnlearnCanvas: A Stylized Image Dataset for Enhanced Machine Unlearning Evaluation in Diffusion Models",
arXiv 2402.11846; https://github.com/OPTML-Group/UnlearnCanvas (machine_unlearning/evaluation). Of an erased object

    object_ua   1 - accuracy of the object, on its images in all styles
    object_ira  accuracy of the other objects, on theirs
    object_cra  accuracy of the styles, on all images

and so for an erased style (style_ua, style_ira, style_cra). `fid` and `kid` leave out the cells of what was erased.
`forget` and `retain` are ua and the two others together.

On the embedded model the world is its catalogue's, and FID and KID are to the unedited model's images. On the published
data set (`--data FOLDER`, STYLE/OBJECT/NUMBER.jpg) prompts, seeds, sampler, steps and guidance are as published, the
labels are the folders', and FID and KID are to pictures 1 to 5 of each cell; the paper's classifiers are two, so
`-s objects=style:FOLDER` adds one for objects to the judge. The paper's FID is by torchvision's Inception, which no
extractor here is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from pydantic import Field

from efface.errors import BadInput
from efface.generation import Job
from efface.judges import open_judge
from efface.judges.wrappers import JoinedJudge
from efface.metrics.features import Features
from efface.metrics.fid import fid, fid_statistic
from efface.metrics.kid import kid, kid_statistic
from efface.models.emoji import catalogue
from efface.protocols.answers import Count, Judged
from efface.protocols.base import BASE, Probe, Shot
from efface.protocols.image_scores import Looks, Vectors, both, distance, open_looks, to_reference
from efface.protocols.paper_sampling import Published
from efface.protocols.planned import planned
from efface.protocols.plans import Asked, BeforeAfter, Plan, Prepared, good
from efface.protocols.world import DOMAINS, Canvas, Domain, emoji_canvas, read_canvas
from efface.request.record import Request
from efface.settings import Settings

SEEDS = (188, 288, 588, 688, 888)
GUIDANCE, PICTURES = 9.0, 5


class Config(Settings):
    """What `-s` sets.

    Attributes:
        objects: The judge of objects, where `--judge` knows styles only.
        extractor: Of FID's and KID's features; empty for one that needs no download.
        only: Objects and styles with commas between them: a smaller world, for a quick look.
        guidance: Of all images; by default 9, as published, and on the embedded model the model's own.
        draws: Resamples behind the intervals of FID and KID, each of which costs as much as the distance.
    """

    objects: str = ""
    extractor: str = ""
    only: str = ""
    guidance: float | None = None
    draws: int = Field(default=50, ge=20)


def prepare(asked: Asked) -> Prepared:
    """Every cell, with a question for the object and one for the style."""
    config = Config.model_validate(asked.inputs.options)
    if asked.inputs.data is None and not asked.is_emoji:
        raise BadInput(
            "The protocol 'unlearncanvas' needs the data set's folder: --data FOLDER (STYLE/OBJECT/NUMBER.jpg)."
        )
    canvas = read_canvas(asked.inputs.data) if asked.inputs.data else emoji_canvas(catalogue())
    canvas = canvas.among([name.strip() for name in config.only.split(",") if name.strip()])
    judge = asked.judge
    if config.objects:
        alternatives = (*canvas.objects, *canvas.styles)
        device, trusted = str(asked.model.device), asked.inputs.trust_torchscript
        judge = JoinedJudge(judge, open_judge(config.objects, alternatives, device, trusted))
    guidance = GUIDANCE if config.guidance is None and not asked.is_emoji else config.guidance
    jobs = {
        (thing, style, k): Job(canvas.prompt(thing, style), seed_of(k) + asked.seed, guidance, concept=thing)
        for thing, style in canvas.cells()
        for k in range(asked.n)
    }
    plans = {name: _plan(request, canvas, jobs) for name, request in asked.requests.items()}
    distances = _Distances(canvas, plans, open_looks(asked, config.extractor), config.draws)
    return Prepared(plans, judge, distances)


def seed_of(k: int) -> int:
    """The published seeds, and as many more as are asked for."""
    return SEEDS[k % len(SEEDS)] + 1000 * (k // len(SEEDS))


Jobs = Mapping[tuple[str, str, int], Job]


def _plan(request: Request, canvas: Canvas, jobs: Jobs) -> Plan:
    erased = {canvas.find(concept.name): concept for concept in request.concepts}
    probes: list[Probe] = []
    for (thing, style, _), job in jobs.items():
        for label in zip(DOMAINS, (thing, style), strict=True):
            if label in erased:
                probes.append(Probe("forget", label[1], job, erased[label].guide))
            else:
                probes.append(Probe("retain", label[1], job))
    labels: dict[Domain, set[str]] = {"object": set(canvas.objects), "style": set(canvas.styles)}
    rates: dict[str, Count] = {"forget": good("forget"), "retain": good("retain")}
    for domain, other in zip(DOMAINS, reversed(DOMAINS), strict=True):
        if not any(own == domain for own, _ in erased):
            continue
        rates[f"{domain}_ua"] = _among("forget", labels[domain])
        rates[f"{domain}_ira"] = _among("retain", labels[domain])
        rates[f"{domain}_cra"] = _among("retain", labels[other])
    return Plan(tuple(probes), rates)


def _among(metric: str, labels: set[str]) -> Count:
    def count(shot: Shot) -> float | None:
        return shot.good if shot.probe.metric == metric and shot.probe.concept in labels else None

    return count


class _Distances:
    """FID and KID over the cells of which nothing was erased, to real pictures or else to the unedited model's."""

    def __init__(self, canvas: Canvas, plans: Mapping[str, Plan], looks: Looks, draws: int) -> None:
        self.canvas, self.looks, self.draws = canvas, looks, draws
        self.measures = {"fid": (fid, fid_statistic), "kid": (kid, kid_statistic())}
        self.probes = {name: plan.probes for name, plan in plans.items()}
        self.probes[BASE] = tuple(probe for plan in plans.values() for probe in plan.probes if probe.metric == "retain")
        # A picture that cannot be read is found out before anything is drawn.
        if paths := self._pictures(set()):
            looks.files(paths)

    def __call__(self, name: str, edited: Judged, base: Judged) -> tuple[dict[str, BeforeAfter], tuple[()]]:
        erased = {probe.job: probe.concept for probe in self.probes[name] if probe.metric == "forget"}
        jobs = dict.fromkeys(probe.job for probe in self.probes[name] if probe.job not in erased)
        after = self.looks(edited, jobs)
        before = None if name == BASE else self.looks(base, jobs)
        if self.canvas.pictures:
            found = self._to_pictures(after, before, set(erased.values()))
        else:
            found = {} if before is None else self._to_unedited(after, before)
        return {metric: measured for metric, measured in found.items() if measured}, ()

    def _to_pictures(self, after: Vectors, before: Vectors | None, erased: set[str]) -> dict[str, BeforeAfter | None]:
        paths = self._pictures(erased)
        if len(paths) < 2:
            return {}
        real = Features(self.looks.files(paths), self.looks.version)
        return {
            metric: to_reference(partial(measure, draws=self.draws), own, after, before, real, self.draws)
            for metric, (measure, own) in self.measures.items()
        }

    def _pictures(self, erased: set[str]) -> list[Path]:
        """The data set's, of the cells that show nothing erased."""
        cells = [cell for cell in self.canvas.cells() if not erased & set(cell)]
        return [path for cell in cells for path in self.canvas.pictures.get(cell, ())[:PICTURES]]

    def _to_unedited(self, after: Vectors, before: Vectors) -> dict[str, BeforeAfter | None]:
        sets, found = both(after, before), dict[str, BeforeAfter | None]()
        for metric, (measure, _) in self.measures.items():
            value = distance(partial(measure, draws=self.draws), *sets, self.looks.version)
            found[metric] = value and BeforeAfter(replace(value, note=f"to the unedited model's images, {value.note}"))
        return found


PROTOCOL = planned(
    name="unlearncanvas",
    summary="unlearning, in-domain and cross-domain accuracy over objects and styles, FID and KID; -n images a cell",
    paper="https://arxiv.org/abs/2402.11846",
    metrics=(
        *(f"{domain}_{rate}" for domain, rate in product(DOMAINS, ("ua", "ira", "cra"))),
        "fid",
        "kid",
        "forget",
        "retain",
    ),
    prepare=prepare,
    n=len(SEEDS),
    config=Config,
    reads=("data",),
    published=Published("ddim", 100, GUIDANCE, with_data=True),
)
