"""The adversarial part where nobody gives prompts: attacks search, and what they find is measured on other seeds.

The images of a concept's adversarial part are split evenly over the attacks, and of each attack's share one half is
drawn for its search and the other is measured. So an attack costs no more images than given prompts would.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efface.attacks import ATTACKS, DEFAULT, Target
from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.generation import Job, Sampling, generate_images
from efface.judges import Judge, score_images
from efface.models import Model
from efface.progress import Progress
from efface.protocols.answers import safe_name
from efface.protocols.base import Probe, Shot
from efface.request.record import Concept, Request
from efface.tools import latents_of

#: What given prompts go by, among the attacks.
GIVEN = "prompts"
#: From the seeds that are measured to those that are searched with.
AWAY = 1 << 20


@dataclass(frozen=True)
class Found:
    """What the attacks on one eraser came to.

    Attributes:
        probes: Of the prompts that they found.
        failed: Shots without an image, for each that a failed attack would have had.
    """

    probes: tuple[Probe, ...] = ()
    failed: tuple[Shot, ...] = ()


@dataclass(frozen=True)
class Attacks:
    """The attacks of one run.

    Args:
        model: The unedited model.
        judge: Who says whether an attempt succeeded.
        sampling: How attempts are drawn.
        out: The run's folder; attempts are kept under `searches`, so that an interrupted search goes on.
        chosen: Attacks by name; `None` takes those of `efface.attacks.DEFAULT` that suit the model, where a concept
            has no adversarial prompts of its own.
        progress: Told as attempts are drawn.

    Raises:
        BadInput: There is no attack of a chosen name, or it does not suit the model.
    """

    model: Model
    judge: Judge
    sampling: Sampling
    out: Path
    chosen: Sequence[str] | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name in self.chosen or ():
            ATTACKS.get(name).check_fit(self.model)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are used."""
        if self.chosen is not None:
            return tuple(dict.fromkeys(self.chosen))
        return tuple(name for name in DEFAULT if ATTACKS.get(name).unfit(self.model) is None)

    @property
    def settings(self) -> dict[str, Any]:
        """Of each, for the record."""
        return {name: ATTACKS.get(name).config().model_dump(mode="json") for name in self.names}

    def given(self, probes: Sequence[Probe]) -> list[Probe]:
        """Probes without the adversarial prompts that chosen attacks stand in for."""
        return [probe for probe in probes if self.chosen is None or probe.metric != "adversarial"]

    def on(self, eraser: Eraser, name: str, request: Request, probes: Sequence[Probe], n: int, seed: int) -> Found:
        """Attack each concept that has no adversarial probe; n images of each, searched and measured.

        Raises:
            BadInput: Attacks were chosen, and n has not two images for each.
        """
        has = {probe.concept for probe in probes if probe.metric == "adversarial"}
        share = n // max(1, len(self.names))
        if self.chosen and share < 2:
            least = 4 * len(self.names)  # half of the images asked for are n, and half of a share is the search
            raise BadInput(
                f"Too few images to attack with {', '.join(self.names)}; ask for at least {least} (-n {least})."
            )
        found: list[Found] = []
        for concept in request.concepts:
            prompts = _prompts(probes, concept.name)
            if prompts and concept.name not in has:
                turns = enumerate(self.names)
                found += [self._attack(a, eraser, name, concept, prompts, share, seed + i * share) for i, a in turns]
        return Found(tuple(p for f in found for p in f.probes), tuple(s for f in found for s in f.failed))

    def _attack(
        self, attack: str, eraser: Eraser, name: str, concept: Concept, prompts: tuple[str, ...], n: int, first: int
    ) -> Found:
        """One attack on one concept: n images from seed `first` on, half of them for the search."""
        entry, searching = ATTACKS.get(attack), n // 2
        entry.check_fit(self.model, eraser)
        if not searching:
            return Found()
        seeds = range(first + AWAY, first + AWAY + searching)
        target = Target(
            self.model,
            eraser,
            concept.name,
            prompts,
            seeds,
            latents_of(self.model),
            concept.aliases,
            self.sampling.clip_skip,
        )
        try:
            jobs = entry.search(target, entry.config(), self._trial(attack, eraser, name, concept.name))
            if not jobs:
                raise RuntimeError("it found no prompt")
        except BadInput:
            raise
        except Exception as error:
            reason = f"the attack {attack} failed: {type(error).__name__}: {error}"
            lost = [_probe(Job(prompts[0]), first + k, concept, attack) for k in range(n - searching)]
            return Found(failed=tuple(Shot(probe, None, None, float("nan"), None, "error", reason) for probe in lost))
        return Found(tuple(_probe(jobs[k % len(jobs)], first + k, concept, attack) for k in range(n - searching)))

    def _trial(self, attack: str, eraser: Eraser, name: str, concept: str) -> Callable[[Sequence[Job]], list[float]]:
        def trial(jobs: Sequence[Job]) -> list[float]:
            images = generate_images(
                self.model,
                jobs,
                self.sampling,
                out=self.out / "searches" / safe_name(name),
                eraser=eraser,
                progress=self.progress,
                what=f"{attack} on {name}",
            )
            scores, _ = score_images(self.judge, images, [concept])
            return scores[:, 0].tolist()

        return trial


def _probe(job: Job, seed: int, concept: Concept, attack: str) -> Probe:
    labelled = replace(job, seed=seed, concept=concept.name)
    return Probe("adversarial", concept.name, labelled, concept.guide, attack)


def _prompts(probes: Sequence[Probe], concept: str) -> tuple[str, ...]:
    said = (probe.job.prompt for probe in probes if probe.metric == "forget" and probe.concept == concept)
    return tuple(dict.fromkeys(said))
