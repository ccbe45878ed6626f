"""The loop of an attack: it proposes images, the edited model generates them, and the judge scores them.

`efface attack` runs it once for each prompt (`attempts.py`), `efface evaluate --attack` once for each concept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from efface.attacks.base import Attack, Target
from efface.eraser.eraser import Eraser
from efface.generation import Image, Job, Sampling, generate_images
from efface.generation.stored_images import StoredImages
from efface.judges import Judge, answer_of, score_images
from efface.methods.base import Latents
from efface.models import Model
from efface.progress import Progress
from efface.settings import Settings

#: Distance between the seeds of a search and the seeds at which its result is measured.
AWAY = 1 << 20


@dataclass(frozen=True)
class AttackSearchResult:
    """The result of one search.

    Attributes:
        jobs: The prompts that bring the concept back, the best first; empty if the search failed.
        tried: The score of every image of the search, NaN without a verdict.
        error: The error that ended the search.
    """

    jobs: tuple[Job, ...]
    tried: Mapping[Job, float] = field(default_factory=dict[Job, float])
    error: Exception | None = None

    @property
    def reason(self) -> str:
        """The error as text; empty without an error."""
        return f"{type(self.error).__name__}: {self.error}" if self.error else ""


@dataclass(frozen=True)
class AttackRun:
    """One attack on one concept, and the means to generate and judge its images.

    Attributes:
        model: The unedited model.
        judge: The judge.
        attack: The attack.
        config: The attack's settings.
        concept: The concept to bring back.
        sampling: How images are generated.
        latents: Generates latents with the unedited model, for attacks that need them.
        words: Further words for the concept.
        stores_images: Whether images of the unedited model go into the cache.
        replay: Whether all images are in the folder, from an earlier run on any machine, so that none is generated.
        progress: The progress callback of image generation.
        what: The name of the images in progress reports.
        opened: The folders to which images were written, in the order of their first use.
    """

    model: Model
    judge: Judge
    attack: Attack
    config: Settings
    concept: str
    sampling: Sampling
    latents: Latents
    words: tuple[str, ...] = ()
    stores_images: bool = True
    replay: bool = False
    progress: Progress | None = None
    what: str = "images"
    opened: dict[Path, None] = field(default_factory=dict[Path, None], compare=False)

    def search(
        self,
        eraser: Eraser,
        prompts: Sequence[str],
        seeds: range,
        folder: Path,
        like: Job | None = None,
        enough: float = math.inf,
    ) -> AttackSearchResult:
        """Run the attack's search. An exception of the attack is part of the result.

        Args:
            eraser: The eraser, attached while images are generated.
            prompts: Plain prompts for the concept.
            seeds: One seed for each image that the search may generate.
            folder: Where the images go; an interrupted search resumes there.
            like: A job whose seed, guidance and size all images of the search take.
            enough: The score at which the search may stop.
        """
        tried: dict[Job, float] = {}

        def trial(jobs: Sequence[Job]) -> list[float]:
            if like is not None:
                jobs = [replace(like, prompt=job.prompt, embedding=job.embedding) for job in jobs]
            scores = self.scores(jobs, eraser, folder)
            tried.update(zip(jobs, scores, strict=True))
            return scores

        target = Target(
            model=self.model,
            eraser=eraser,
            concept=self.concept,
            prompts=tuple(prompts),
            seeds=seeds,
            latents=self.latents,
            words=self.words,
            clip_skip=self.sampling.clip_skip,
            enough=enough,
        )
        try:
            return AttackSearchResult(tuple(self.attack.search(target, self.config, trial)), tried)
        except Exception as error:  # any error of the attack: a failed search shows nothing about the eraser
            return AttackSearchResult((), tried, error)

    def scores(self, jobs: Sequence[Job], eraser: Eraser | None, folder: Path) -> list[float]:
        """The judge's scores of the concept in images of one model, NaN on an error.

        Args:
            jobs: The images.
            eraser: The eraser; None for the unedited model.
            folder: Where the images go.
        """
        if not jobs:
            return []
        return score_images(self.judge, self.images(jobs, eraser, folder), [self.concept])[0][:, 0].tolist()

    def images(self, jobs: Sequence[Job], eraser: Eraser | None, folder: Path) -> list[Image]:
        """The images of one model; those that are in the folder are not generated again.

        Args:
            jobs: The images.
            eraser: The eraser; None for the unedited model.
            folder: Where the images go.
        """
        self.opened[folder] = None
        return generate_images(
            self.model,
            jobs,
            self.sampling,
            out=folder,
            eraser=eraser,
            use_cache=self.stores_images and eraser is None,
            existing=StoredImages(folder, complete=True) if self.replay else None,
            progress=self.progress,
            what=self.what,
        )

    def answer(self, score: float) -> bool | None:
        """Whether an image with this score shows the concept; None on an error, and if the judge is undecided."""
        return {"yes": True, "no": False}.get(answer_of(self.judge, self.concept, score))

    def answers(self, jobs: Sequence[Job], eraser: Eraser | None, folder: Path) -> list[bool | None]:
        """Whether each image shows the concept.

        Args:
            jobs: The images.
            eraser: The eraser; None for the unedited model.
            folder: Where the images go.
        """
        return [self.answer(score) for score in self.scores(jobs, eraser, folder)]
