"""The `style` protocol: how far did an erased artist's pictures move, and how far those of others?

Gandikota et al., "Erasing Concepts from Diffusion Models", arXiv 2303.07345; https://github.com/rohitgandikota/erasing
(data/*_art_prompts.csv: prompt, artist, evaluation_seed). With LPIPS (arXiv 1801.03924) between the images of one
prompt and seed before and after,

    lpips_e  mean over prompts of what was erased: high
    lpips_u  mean over all others: low
    lpips_d  lpips_e - lpips_u

`-s lpips=alexnet.pth,alex.pth` gives its weights (see `efface.metrics.lpips`), `-s side=64` resizes as ESD's script
does. Without them, `distance_e`, `distance_u` and `distance_d` are 1 - cos of the features of `-s extractor`, another
distance under another name. The judge adds in how many images the erased artist is absent (`forget`) and the others
are found (`retain`), for artists that it knows.

`--prompts` is the file of prompts, with a column `artist` (or `concept`); `-n` takes so many of each artist. A closed
world needs none: its artists are its styles, on all of its objects in turn. Other models sample as ESD's scripts do, in
100 steps of LMS at guidance 7.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np
from pydantic import Field

from efface.errors import BadInput
from efface.generation import Job
from efface.judges import Judge
from efface.judges.wrappers import WithPeers
from efface.metrics.base import Measured
from efface.metrics.bootstrap import Array, all_alike, interval_of_mean, percentiles, resampled_means, units
from efface.metrics.features import Pixels
from efface.metrics.lpips import Lpips
from efface.protocols.base import FORGET, RETAIN, EvaluationInput, Metric, PaperSampling, Protocol
from efface.protocols.image_scores import ScoreOfJob, clusters_of, extractor_for, mean_score
from efface.protocols.plan import BASE, BeforeAfter, Plan, Prepared, Probe, ScoredImages, right_answers
from efface.protocols.probes.requests import at_most
from efface.protocols.world import grid_of
from efface.request.names import name_key, plain_words
from efface.request.record import Request
from efface.settings import Settings


class StyleConfig(Settings):
    """The settings.

    Attributes:
        lpips: Files of LPIPS' weights, separated by commas.
        side: Resize to this shorter side before LPIPS; by default images stay as they are.
        extractor: The extractor of the features that replace LPIPS; empty for one that needs no download.
    """

    lpips: str = ""
    side: int | None = Field(default=None, ge=16)
    extractor: str = ""


def prepare(evaluation: EvaluationInput) -> Prepared:
    """The prompts of every artist, those erased and those not."""
    config = StyleConfig.model_validate(evaluation.options)
    jobs = _jobs(evaluation)
    rates = {"forget": right_answers("forget"), "retain": right_answers("retain")}
    erased = {name: _erased(request, jobs, evaluation.judge) for name, request in evaluation.requests.items()}
    plans: dict[str, Plan] = {}
    for name, guides in erased.items():
        probes = [
            Probe("forget" if job.concept in guides else "retain", job.concept, job, guides.get(job.concept))
            for job in jobs
            if evaluation.judge.knows(job.concept)
        ]
        plans[name] = Plan(tuple(probes), rates, tuple(jobs))
    judge = WithPeers(evaluation.judge, (job.concept for job in jobs))
    return Prepared(plans, judge, _Movement(jobs, erased, pair_distance(evaluation, config)))


def _jobs(evaluation: EvaluationInput) -> list[Job]:
    """At most n of each artist."""
    if evaluation.prompts is not None:
        jobs = evaluation.prompt_file("style").jobs
        if unlabelled := [job.prompt for job in jobs if not job.concept]:
            raise BadInput(
                f"'{unlabelled[0]}' has no artist; the file of prompts needs a column 'artist' or 'concept'."
            )
    elif evaluation.world:
        grid = grid_of(evaluation.world)
        jobs = [
            Job(grid.prompt(thing, style), evaluation.seed + k, concept=style)
            for k, (thing, style) in enumerate(grid.cells())
        ]
    else:
        evaluation.prompt_file("style")
        return []
    return at_most(jobs, evaluation.n)


def _erased(request: Request, jobs: Sequence[Job], judge: Judge) -> dict[str, str | None]:
    """The artists of the prompts that the request erases, with their guides.

    Raises:
        BadInput: A concept of the request has no prompt.
    """
    erased: dict[str, str | None] = {}
    for concept in request.concepts:
        artists = {job.concept: None for job in jobs if _is_same(job.concept, concept.name, judge)}
        if not artists:
            known = ", ".join(dict.fromkeys(job.concept for job in jobs))
            raise BadInput(f"There is no prompt of '{concept.name}'; there are prompts of {known}.")
        erased |= dict.fromkeys(artists, concept.guide)
    return erased


def _is_same(artist: str, concept: str, judge: Judge) -> bool:
    """Whether a concept means an artist: `Van Gogh` is `Vincent van Gogh`, by its words or to the judge."""
    words, name = plain_words(artist), plain_words(concept).removesuffix(" style")
    within = words.endswith(f" {name}") or name.endswith(f" {words}")
    return within or name_key(words) == name_key(name) or judge.same(artist, concept)


#: Distances (n,) of pairs of images (H, W, 3).
PairDistance = Callable[[Sequence[Pixels], Sequence[Pixels]], Array]


class _Movement:
    """Mean distances between the images before and after, of erased artists and of others.

    Args:
        jobs: All prompts.
        erased: By eraser, the artists that it erased.
        measure: The distance's name, its version, and its function.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        erased: Mapping[str, Mapping[str, str | None]],
        measure: tuple[str, str, PairDistance],
    ) -> None:
        self.jobs, self.erased = jobs, erased
        self.name, self.version, self.distance = measure

    def __call__(self, name: str, edited: ScoredImages, base: ScoredImages) -> tuple[dict[str, BeforeAfter], set[Job]]:
        moved, unread = self._moved(edited, base)
        if name == BASE:  # from itself
            return {}, unread
        e = {job: value for job, value in moved.items() if job.concept in self.erased[name]}
        u = {job: value for job, value in moved.items() if job not in e}
        parts = {"e": mean_score(self.version, e), "u": mean_score(self.version, u), "d": minus(e, u, self.version)}
        return {f"{self.name}_{part}": measured for part, measured in parts.items() if measured}, unread

    def _moved(self, edited: ScoredImages, base: ScoredImages) -> tuple[ScoreOfJob, set[Job]]:
        """The distance of each pair that can be read, and the edited images that cannot."""
        moved: dict[Job, float] = {}
        unread: set[Job] = set()
        for job in self.jobs:
            try:
                after = edited.images[job].pixels()
            except OSError:
                unread.add(job)
                continue
            if edited is not base:
                with suppress(OSError):
                    moved[job] = float(self.distance([after], [base.images[job].pixels()])[0])
        return moved, unread


def pair_distance(evaluation: EvaluationInput, config: StyleConfig) -> tuple[str, str, PairDistance]:
    """LPIPS if there are weights, else the distance of features: its name, its version and its function.

    Args:
        evaluation: The evaluation.
        config: The settings.
    """
    if config.lpips:
        files = [part.strip() for part in config.lpips.split(",")]
        net = Lpips(*files, side=config.side, device=evaluation.model.device)
        return "lpips", net.version, net.distances
    extractor = extractor_for(evaluation, config.extractor)

    def distances(first: Sequence[Pixels], second: Sequence[Pixels]) -> Array:
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in map(extractor.features, (first, second)))
        return 1 - (x * y).sum(1)

    return "distance", f"1 - cos of {extractor.version}", distances


def minus(e: ScoreOfJob, u: ScoreOfJob, version: str) -> BeforeAfter | None:
    """The difference of two means over different prompts, each resampled by itself; None for too few images.

    Args:
        e: Scores of erased artists' images.
        u: Scores of the others' images.
        version: What computed the scores.
    """
    if len(e) < 2 or len(u) < 2:
        return None
    rng = np.random.default_rng(0)
    parts = [units(clusters_of(scores)) for scores in (e, u)]
    value = float(np.mean(list(e.values())) - np.mean(list(u.values())))
    if all(map(all_alike, parts)):  # no spread: the reach of both means adds up
        means = (float(np.mean(part[0])) for part in parts)
        reach = sum(interval_of_mean(part, mean)[1] - mean for part, mean in zip(parts, means, strict=True))
        return BeforeAfter(Measured(value, value - reach, value + reach, len(e) + len(u), "score", version))
    low, high = percentiles(resampled_means(parts[0], rng) - resampled_means(parts[1], rng))
    return BeforeAfter(Measured(value, min(low, value), max(high, value), len(e) + len(u), "score", version))


def _metrics(distance: str) -> tuple[Metric, ...]:
    return (
        Metric(f"{distance}_e", "how far images of erased artists moved", unit=""),
        Metric(f"{distance}_u", "how far images of other artists moved", unit="", better="lower"),
        Metric(f"{distance}_d", "the first minus the second", unit=""),
    )


ENTRY = Protocol(
    name="style",
    summary="LPIPS between images before and after, of erased artists and of others; -n prompts an artist",
    paper="https://arxiv.org/abs/2303.07345",
    metrics=(*_metrics("lpips"), *_metrics("distance"), FORGET, RETAIN),
    prepare=prepare,
    n=20,
    config=StyleConfig,
    reads=("prompts",),
    published=PaperSampling("lms", 100, 7.5),
)
