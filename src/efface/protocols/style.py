"""The `style` protocol: how far did an erased artist's pictures move, and how far those of others?

Gandikota et al., "Erasing Concepts from Diffusion Models", arXiv 2303.07345; https://github.com/rohitgandikota/erasing
(data/*_art_prompts.csv: prompt, artist, evaluation_seed). With LPIPS (arXiv 1801.03924) between the images of one
prompt and seed before and after,

    lpips_e  mean over prompts of what was erased: high
    lpips_u  mean over all others: low
    lpips_d  lpips_e - lpips_u

`-s lpips=alexnet.pth,alex.pth` gives its weights (see `efface.metrics.lpips`), `-s side=64` resizes as ESD's script
does. Without them, `distance_e`, `distance_u` and `distance_d` are 1 - cos of the features of `-s extractor`, another
distance under another name. The judge says besides in how many images the erased artist is absent (`forget`) and the
others are found (`retain`), where it knows them.

`--prompts` is the file of prompts, with a column `artist` (or `concept`); `-n` takes so many of each artist. The
embedded model needs none: its artists are its styles, on all of its objects in turn. Other models draw as ESD's scripts
do, in 100 steps of LMS at guidance 7.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np
from pydantic import Field

from efface.errors import BadInput
from efface.generation import Job, read_prompts
from efface.judges import Judge
from efface.judges.shared.questions import plain_words
from efface.judges.wrappers import WithPeers
from efface.metrics.base import Measured
from efface.metrics.bootstrap import Array, percentiles, resampled_means, units
from efface.metrics.features import Pixels
from efface.metrics.lpips import Lpips
from efface.models.emoji import catalogue
from efface.protocols.answers import Judged
from efface.protocols.base import BASE, Probe
from efface.protocols.image_scores import Scores, clusters, extractor_of, scored
from efface.protocols.paper_sampling import Published
from efface.protocols.planned import planned
from efface.protocols.plans import Asked, BeforeAfter, Plan, Prepared, good
from efface.protocols.probes.requests import spread
from efface.protocols.world import emoji_canvas
from efface.request.record import Request
from efface.settings import Settings


class Config(Settings):
    """What `-s` sets.

    Attributes:
        lpips: Files of LPIPS' weights, with commas between them.
        side: Resize to this shorter side before LPIPS; by default images stay as they are.
        extractor: Of the features that stand in for LPIPS; empty for one that needs no download.
    """

    lpips: str = ""
    side: int | None = Field(default=None, ge=16)
    extractor: str = ""


def prepare(asked: Asked) -> Prepared:
    """The prompts of every artist, those erased and those not."""
    config = Config.model_validate(asked.inputs.options)
    jobs = _jobs(asked)
    rates = {"forget": good("forget"), "retain": good("retain")}
    erased = {name: _erased(request, jobs, asked.judge) for name, request in asked.requests.items()}
    plans: dict[str, Plan] = {}
    for name, guides in erased.items():
        probes = [
            Probe("forget" if job.concept in guides else "retain", job.concept, job, guides.get(job.concept))
            for job in jobs
            if asked.judge.knows(job.concept)
        ]
        plans[name] = Plan(tuple(probes), rates, tuple(jobs))
    judge = WithPeers(asked.judge, (job.concept for job in jobs))
    return Prepared(plans, judge, _Pairs(jobs, erased, _far(asked, config)))


def _jobs(asked: Asked) -> list[Job]:
    """At most n of each artist."""
    if asked.inputs.prompts is not None:
        jobs = read_prompts(asked.inputs.prompts, asked.seed)
        if unsaid := [job.prompt for job in jobs if not job.concept]:
            raise BadInput(f"'{unsaid[0]}' has no artist; the file of prompts needs a column 'artist' or 'concept'.")
    elif asked.is_emoji:
        canvas = emoji_canvas(catalogue())
        jobs = [
            Job(canvas.prompt(thing, style), asked.seed + k, concept=style)
            for k, (thing, style) in enumerate(canvas.cells())
        ]
    else:
        asked.inputs.prompts_for("style")
        return []
    return spread(jobs, asked.n)


def _erased(request: Request, jobs: Sequence[Job], judge: Judge) -> dict[str, str | None]:
    """The file's artists that the request erases, with their guides.

    Raises:
        BadInput: One that it erases has no prompt.
    """
    found: dict[str, str | None] = {}
    for concept in request.concepts:
        mine = {job.concept: None for job in jobs if _same(job.concept, concept.name, judge)}
        if not mine:
            known = ", ".join(dict.fromkeys(job.concept for job in jobs))
            raise BadInput(f"There is no prompt of '{concept.name}'; there are prompts of {known}.")
        found |= dict.fromkeys(mine, concept.guide)
    return found


def _same(artist: str, name: str, judge: Judge) -> bool:
    """Whether a concept means an artist: `Van Gogh` is `Vincent van Gogh`, by its words or to the judge."""
    words, said = plain_words(artist), plain_words(name).removesuffix(" style")
    return words == said or words.endswith(f" {said}") or said.endswith(f" {words}") or judge.same(artist, name)


#: Distances of pairs of images (H, W, 3), (n,).
Far = Callable[[Sequence[Pixels], Sequence[Pixels]], Array]


class _Pairs:
    """Distances before and after.

    Args:
        jobs: All prompts.
        erased: By eraser, the artists that it erased.
        measure: Its name, its version, and the distances of pairs.
    """

    def __init__(
        self, jobs: Sequence[Job], erased: Mapping[str, Mapping[str, str | None]], measure: tuple[str, str, Far]
    ) -> None:
        self.jobs, self.erased = jobs, erased
        self.name, self.version, self.far = measure

    def __call__(self, name: str, edited: Judged, base: Judged) -> tuple[dict[str, BeforeAfter], set[Job]]:
        moved, unread = self._moved(edited, base)
        if name == BASE:  # from itself
            return {}, unread
        e = {job: far for job, far in moved.items() if job.concept in self.erased[name]}
        u = {job: far for job, far in moved.items() if job not in e}
        found = {"e": scored(self.version, e), "u": scored(self.version, u), "d": minus(e, u, self.version)}
        return {f"{self.name}_{part}": measured for part, measured in found.items() if measured}, unread

    def _moved(self, edited: Judged, base: Judged) -> tuple[Scores, set[Job]]:
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
                    moved[job] = float(self.far([after], [base.images[job].pixels()])[0])
        return moved, unread


def _far(asked: Asked, config: Config) -> tuple[str, str, Far]:
    """LPIPS where there are weights, else the distance of features."""
    if config.lpips:
        files = [part.strip() for part in config.lpips.split(",")]
        net = Lpips(*files, side=config.side, device=asked.model.device)
        return "lpips", net.version, net.distances
    own = extractor_of(asked, config.extractor)

    def far(first: Sequence[Pixels], second: Sequence[Pixels]) -> Array:
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in map(own.features, (first, second)))
        return 1 - (x * y).sum(1)

    return "distance", f"1 - cos of {own.version}", far


def minus(e: Scores, u: Scores, version: str) -> BeforeAfter | None:
    """The difference of two means over different prompts, each resampled by itself."""
    if len(e) < 2 or len(u) < 2:
        return None
    rng = np.random.default_rng(0)
    parts = [units(clusters(scores)) for scores in (e, u)]
    value = float(np.mean(list(e.values())) - np.mean(list(u.values())))
    low, high = percentiles(resampled_means(parts[0], rng) - resampled_means(parts[1], rng))
    return BeforeAfter(Measured(value, min(low, value), max(high, value), len(e) + len(u), "score", version))


PROTOCOL = planned(
    name="style",
    summary="LPIPS between images before and after, of erased artists and of others; -n prompts an artist",
    paper="https://arxiv.org/abs/2303.07345",
    metrics=(*(f"{m}_{p}" for m in ("lpips", "distance") for p in ("e", "u", "d")), "forget", "retain"),
    prepare=prepare,
    n=20,
    config=Config,
    reads=("prompts",),
    published=Published("lms", 100, 7.5),
)
