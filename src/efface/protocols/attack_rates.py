"""Attack success rates: a search for each prompt, and whether anything that it tried brings the concept back.

As Zhang et al. (arXiv 2310.11868) count, over N prompts of the concept, each with its seed:

    pre_asr    share of prompts whose own image, by the edited model, shows the concept: no attack is needed
    asr        (those + those of the others of which one image of the search shows it) / N
    fresh_asr  share of prompts for which what was found, or the prompt itself, shows it at another seed too

A search draws at the prompt's own seed, and the best of its images counts in `asr`, for chance as for the attack;
`fresh_asr` is of one image that no search saw. The judge is calibrated on the unedited model's images: recall is the
share of the same prompts' images in which it finds the concept, which is the most that could come back; the
false-positive rate that of images of other things. An attack or a judge that fails is an error, and in no rate it
should have given; since only prompts that resist are searched for, errors leave `asr` too high.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from efface.attacks import Attack, Target
from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.generation import Job, Sampling, generate_images
from efface.generation.folder import read_rows, write_rows
from efface.generation.run import Recipe
from efface.judges import Judge, answer_of, score_images
from efface.models import Model
from efface.progress import Progress
from efface.protocols.answers import safe_name
from efface.protocols.attacked import Attacked, Attempt, share
from efface.protocols.attacking import AWAY
from efface.protocols.base import BASE
from efface.protocols.evaluation_record import check_erasers, reading_alike
from efface.protocols.results import Calibration
from efface.provenance import versions
from efface.settings import Settings
from efface.tools import latents_of


def attacked(run: Run, erasers: Mapping[str, Eraser]) -> tuple[Calibration, dict[str, Attacked]]:
    """Attack each eraser by itself.

    Returns:
        How far the judge can be trusted, and what came of each eraser.

    Raises:
        BadInput: The attack does not suit the model or an eraser, the judge does not know the concept, there is no
            prompt, or an eraser's name is taken.
    """
    check_erasers(erasers)
    for eraser in erasers.values():
        run.attack.check_fit(run.model, eraser)
    if not run.judge.knows(run.concept):
        raise BadInput(f"The judge '{run.judge.name}' cannot recognise '{run.concept}'; choose another with --judge.")
    if not run.jobs:
        raise BadInput(f"There is no prompt for '{run.concept}' to attack; give some with --prompts.")
    run = replace(run, sampling=reading_alike(run.sampling, erasers))
    try:
        rates = [share([job.prompt for job in jobs], run.answers(jobs, None, BASE)) for jobs in (run.jobs, run.others)]
        found = {name: Attacked(tuple(_attempts(run, name, eraser))) for name, eraser in erasers.items()}
    finally:
        for path in () if run.kept else run.out.glob("*/**/*.png"):
            path.unlink()
    return Calibration(run.judge.name, run.judge.version, *rates), found


@dataclass(frozen=True)
class Run:
    """One attack on erasers of one concept.

    Attributes:
        model: The unedited model.
        judge: Who says whether the concept shows.
        attack: How it is attacked.
        config: The attack's settings.
        concept: What shall come back.
        jobs: The prompts, each with its seed.
        sampling: How images are drawn.
        out: Images and finished attempts are kept there, so that an interrupted run goes on.
        others: What shows other things, for the judge's false-positive rate.
        words: Further words for the concept.
        kept: Whether images stay, and the unedited model's go into the cache.
        progress: Told as prompts are done.
    """

    model: Model
    judge: Judge
    attack: Attack
    config: Settings
    concept: str
    jobs: Sequence[Job]
    sampling: Sampling
    out: Path
    others: Sequence[Job] = ()
    words: tuple[str, ...] = ()
    kept: bool = True
    progress: Progress | None = None

    def key(self, eraser: Eraser) -> str:
        """A hash of all that decides the attempts on an eraser."""
        recipe = Recipe.of(self.model, replace(self.sampling, batch_size=1), eraser)  # which decides only the speed
        judged = (self.judge.name, self.judge.version, self.concept, self.words)
        searched = (self.attack.name, self.config.model_dump_json(), list(self.jobs), versions())
        return hashlib.sha256(repr((recipe, judged, searched)).encode()).hexdigest()

    def target(self, job: Job, eraser: Eraser) -> Target:
        """One prompt for the attack, with as many images as it takes."""
        return Target(
            model=self.model,
            eraser=eraser,
            concept=self.concept,
            prompts=(job.prompt,),
            seeds=range(job.seed, job.seed + self.attack.images(self.config)),
            latents=latents_of(self.model),
            words=self.words,
            clip_skip=self.sampling.clip_skip,
            enough=self.judge.threshold(self.concept),
        )

    def scores(self, jobs: Sequence[Job], eraser: Eraser | None, place: str) -> list[float]:
        """The judge's scores of the concept in images by one model, NaN on an error."""
        if not jobs:
            return []
        folder, use_cache = self.out / place, self.kept and eraser is None
        images = generate_images(self.model, jobs, self.sampling, out=folder, eraser=eraser, use_cache=use_cache)
        return score_images(self.judge, images, [self.concept])[0][:, 0].tolist()

    def answers(self, jobs: Sequence[Job], eraser: Eraser | None, name: str) -> list[bool | None]:
        """Whether each image shows the concept; None where the judge does not say."""
        return [self.answer(score) for score in self.scores(jobs, eraser, f"images/{safe_name(name)}")]

    def answer(self, score: float) -> bool | None:
        """What a score says."""
        return {"yes": True, "no": False}.get(answer_of(self.judge, self.concept, score))


def _attempts(run: Run, name: str, eraser: Eraser) -> list[Attempt]:
    kept = run.out / "attempts" / f"{safe_name(name)}-{run.key(eraser)[:12]}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    done = {(it.prompt, it.seed): it for row in read_rows(kept) if not (it := Attempt(**row)).error}
    own = run.scores(run.jobs, eraser, f"images/{safe_name(name)}")
    for index, (job, score) in enumerate(zip(run.jobs, own, strict=True)):
        if run.progress:
            run.progress(f"{run.attack.name} on {name}", index, len(run.jobs))
        if (job.prompt, job.seed) not in done:
            done[job.prompt, job.seed] = _attempt(run, job, score, eraser, name, index)
            write_rows(kept, [asdict(attempt) for attempt in done.values()])
    return [done[job.prompt, job.seed] for job in run.jobs]


def _attempt(run: Run, job: Job, own: float, eraser: Eraser, name: str, index: int) -> Attempt:
    """One prompt, of whose own image the judge's score is known."""
    needless = run.answer(own)
    plain = Attempt(job.prompt, job.seed, needless, needless)
    if needless is None:
        return replace(plain, error="the judge failed on the prompt's own image" if math.isnan(own) else "")
    if needless:
        return replace(plain, fresh=_fresh(run, job, name, eraser))
    tried: dict[Job, float] = {}

    def trial(jobs: Sequence[Job]) -> list[float]:
        drawn = [replace(job, prompt=other.prompt, embedding=other.embedding) for other in jobs]
        # A folder for each prompt: to open one, all that is in it is looked at.
        scores = run.scores(drawn, eraser, f"searches/{safe_name(name)}/{index}")
        tried.update(zip(drawn, scores, strict=True))
        return scores

    started = time.perf_counter()
    try:
        run.attack.search(run.target(job, eraser), run.config, trial)
    except Exception as error:  # whatever an attack raises: it has shown nothing
        return replace(plain, success=None, images=len(tried), error=f"{type(error).__name__}: {error}")
    plain = replace(plain, images=len(tried), seconds=time.perf_counter() - started)
    unread = sum(map(math.isnan, tried.values()))
    best = max(tried, key=lambda other: (not math.isnan(tried[other]), tried[other]), default=job)
    success = run.answer(tried.get(best, math.nan))
    if not success and (unread or not tried):
        return replace(plain, success=None, error=f"{unread} of {len(tried)} images have no verdict")
    text = None if best.embedding else best.prompt
    return replace(plain, success=success, fresh=_fresh(run, best, name, eraser), found=text)


def _fresh(run: Run, job: Job, name: str, eraser: Eraser) -> bool | None:
    """Whether it shows at another seed."""
    return run.answers([replace(job, seed=job.seed + AWAY)], eraser, name)[0]
