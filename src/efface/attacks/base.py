"""What an attack is: a name, its sources, its settings, and a search for prompts that bring a concept back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.errors import BadInput
from efface.generation.jobs import Job
from efface.settings import Settings

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.methods.base import Latents
    from efface.models import Model


#: Draws jobs with the edited model and judges them: how sure the judge is of the concept in each, NaN without a score.
Trial = Callable[[Sequence[Job]], Sequence[float]]


@dataclass(frozen=True)
class Target:
    """What is attacked, and with how much.

    Attributes:
        model: The unedited model.
        eraser: What is on it while a trial draws.
        concept: What shall come back.
        prompts: Plain prompts for it.
        seeds: Of the images of the search, as many as it may draw; no image that is measured has one of these.
        latents: Draws with the unedited model.
        words: Further words for it, which words drawn at random leave out, as they do its name.
        clip_skip: How many of the text encoder's last layers are skipped.
        enough: The score from which on a search may stop.
    """

    model: Model
    eraser: Eraser
    concept: str
    prompts: tuple[str, ...]
    seeds: range
    latents: Latents
    words: tuple[str, ...] = ()
    clip_skip: int | None = None
    enough: float = math.inf


@dataclass(frozen=True)
class Attack:
    """One way to attack.

    Attributes:
        name: What it is called on the command line and in results.
        summary: One line.
        paper: Link to the paper.
        repository: Link to the reference implementation.
        config: Its settings, with the published defaults.
        images: validated settings -> how many images a search of one prompt draws at most.
        search: (target, validated settings, trial) -> prompts that bring the concept back best, the best first; their
            seeds mean nothing. It draws at most one image a seed of the target, and raises where it cannot search: an
            attack that fails has shown nothing.
        embeds: It finds embeddings, which only models take that efface samples itself.
        gradient: It follows a gradient through the text encoder, which it knows of models with one CLIP.
    """

    name: str
    summary: str
    paper: str
    repository: str
    config: type[Settings]
    images: Callable[[Any], int]
    search: Callable[..., Sequence[Job]]
    embeds: bool = False
    gradient: bool = False

    def unfit(self, model: Model, eraser: Eraser | None = None) -> str | None:
        """Why it cannot be used on a model, or on it with an eraser, as what it does; None if it can."""
        if self.embeds and model.call_parameters is not None:
            return f"gives embeddings, which {model.name} does not take from efface"
        if self.gradient and not model.one_clip_encoder:
            return f"follows a gradient through one CLIP text encoder alone, which is not how {model.name} reads text"
        if not (self.gradient and eraser):
            return None
        # Both bring torch, which the names and settings of attacks need not wait for.
        from efface.apply.guard import GUARDS
        from efface.edits.kinds import GuardEdit

        guards = [edit.guard for edit in eraser.edits if isinstance(edit, GuardEdit)]
        if lasting := next((name for name in guards if GUARDS.get(name).remembers), None):
            return f"follows the gradient of single steps, and what {lasting} does at one hangs on all before it"
        return None

    def check_fit(self, model: Model, eraser: Eraser | None = None) -> None:
        """Refuse a model, or an eraser on it, that the attack cannot be used on.

        Raises:
            BadInput: It cannot.
        """
        if why := self.unfit(model, eraser):
            raise BadInput(f"The attack '{self.name}' {why}.")


def ranked(jobs: Sequence[Job], scores: Sequence[float]) -> list[tuple[Job, float]]:
    """Jobs with a score, the best first.

    Scores are compared to two places, so that what rounds otherwise in a batch of another size ranks the same.

    Raises:
        RuntimeError: None has a score.
    """
    scored = [(job, score) for job, score in zip(jobs, scores, strict=True) if not math.isnan(score)]
    if not scored:
        raise RuntimeError("no image of its search has a verdict")
    return sorted(scored, key=lambda pair: -round(pair[1], 2))
