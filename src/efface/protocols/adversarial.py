"""The adversarial rate without given prompts: attacks search, and what they find is measured at other seeds.

The images of a concept's adversarial rate are divided evenly among the attacks. Of each attack's share, one half is
generated for its search and the other half is measured. An attack therefore costs no more images than given prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efface.attacks import ATTACKS, DEFAULT
from efface.attacks.search import AWAY, AttackRun
from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.generation import Job, Sampling
from efface.generation.folder import folder_name
from efface.judges import Judge
from efface.models import Model
from efface.progress import Progress
from efface.protocols.plan import JudgedImage, Probe
from efface.request.record import Concept, Request
from efface.tools import latents_of


@dataclass(frozen=True)
class AdversarialImages:
    """The outcome of the attacks on one eraser.

    Attributes:
        probes: The images to measure, with the prompts that the attacks found.
        failed: The images that a failed attack leaves without a prompt.
    """

    probes: tuple[Probe, ...] = ()
    failed: tuple[JudgedImage, ...] = ()


@dataclass(frozen=True)
class Attackers:
    """The attacks of one evaluation.

    Attributes:
        model: The unedited model.
        judge: The judge of the searches' images.
        sampling: How images are generated.
        out: The folder of the run; searches are stored under `searches`, so that an interrupted search resumes.
        chosen: Names of attacks; None takes those of `efface.attacks.DEFAULT` that fit the model.
        replay: Whether all images of the searches are in the folder, so that none is generated.
        progress: The progress callback.

    Raises:
        BadInput: A chosen attack does not exist or does not fit the model.
    """

    model: Model
    judge: Judge
    sampling: Sampling
    out: Path
    chosen: Sequence[str] | None = None
    replay: bool = False
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name in self.chosen or ():
            ATTACKS.get(name).check_fit(self.model)

    @property
    def names(self) -> tuple[str, ...]:
        """The attacks in use."""
        if self.chosen is not None:
            return tuple(dict.fromkeys(self.chosen))
        return tuple(name for name in DEFAULT if ATTACKS.get(name).unfit(self.model) is None)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of each attack, for the record."""
        return {name: ATTACKS.get(name).config().model_dump(mode="json") for name in self.names}

    def on(
        self, eraser: Eraser, name: str, request: Request, probes: Sequence[Probe], n: int, seed: int
    ) -> AdversarialImages:
        """Attack each concept that has no adversarial probe.

        Args:
            eraser: The eraser.
            name: Its name in results.
            request: What is evaluated.
            probes: The eraser's plan.
            n: Number of images for each concept, searched and measured.
            seed: Seed of the first image to measure.

        Raises:
            BadInput: Attacks were chosen, and n is less than two images for each.
        """
        given = {probe.concept for probe in probes if probe.metric == "adversarial"}
        share = n // max(1, len(self.names))
        if self.chosen and share < 2:
            # n is half of the -n images of a concept; each attack has an equal share, of at least two images: one to
            # search with and one to measure.
            least = 4 * len(self.names)
            raise BadInput(
                f"Too few images to attack with {', '.join(self.names)}; ask for at least {least} (-n {least})."
            )
        outcomes: list[AdversarialImages] = []
        for concept in request.concepts:
            prompts = _prompts(probes, concept.name)
            if prompts and concept.name not in given:
                outcomes += [
                    self._attack(attack, eraser, name, concept, prompts, share, seed + i * share)
                    for i, attack in enumerate(self.names)
                ]
        return AdversarialImages(
            tuple(probe for outcome in outcomes for probe in outcome.probes),
            tuple(image for outcome in outcomes for image in outcome.failed),
        )

    def _attack(
        self, attack: str, eraser: Eraser, name: str, concept: Concept, prompts: tuple[str, ...], n: int, first: int
    ) -> AdversarialImages:
        """One attack on one concept: n images from seed `first` on, half of them for the search."""
        entry, searching = ATTACKS.get(attack), n // 2
        entry.check_fit(self.model, eraser)
        if not searching:
            return AdversarialImages()
        run = AttackRun(
            self.model,
            self.judge,
            entry,
            entry.config(),
            concept.name,
            self.sampling,
            latents_of(self.model),
            words=concept.aliases,
            replay=self.replay,
            progress=self.progress,
            what=f"{attack} on {name}",
        )
        seeds = range(first + AWAY, first + AWAY + searching)
        outcome = run.search(eraser, prompts, seeds, self.out / "searches" / folder_name(name))
        if isinstance(outcome.error, BadInput):
            raise outcome.error
        if reason := outcome.reason or ("" if outcome.jobs else "RuntimeError: it found no prompt"):
            lost = [_probe(Job(prompts[0]), first + k, concept, attack) for k in range(n - searching)]
            error = f"the attack {attack} failed: {reason}"
            return AdversarialImages(failed=tuple(_without_prompt(probe, error) for probe in lost))
        jobs = [outcome.jobs[k % len(outcome.jobs)] for k in range(n - searching)]
        return AdversarialImages(tuple(_probe(job, first + k, concept, attack) for k, job in enumerate(jobs)))


def _probe(job: Job, seed: int, concept: Concept, attack: str) -> Probe:
    labelled = replace(job, seed=seed, concept=concept.name)
    return Probe("adversarial", concept.name, labelled, concept.guide, attack)


def _without_prompt(probe: Probe, error: str) -> JudgedImage:
    return JudgedImage(probe, None, None, float("nan"), None, "error", error)


def _prompts(probes: Sequence[Probe], concept: str) -> tuple[str, ...]:
    prompts = (probe.job.prompt for probe in probes if probe.metric == "forget" and probe.concept == concept)
    return tuple(dict.fromkeys(prompts))
