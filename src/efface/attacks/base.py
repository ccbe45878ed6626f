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


#: Generates images with the edited model and judges them. Returns the score of the concept in each, NaN without one.
Trial = Callable[[Sequence[Job]], Sequence[float]]


@dataclass(frozen=True)
class Target:
    """What is attacked, and with how many images.

    Attributes:
        model: The unedited model.
        eraser: The eraser, attached while a trial generates images.
        concept: The concept to bring back.
        prompts: Plain prompts for the concept.
        seeds: One seed for each image that the search may generate; no image that is measured has one of these.
        latents: Generates latents with the unedited model.
        words: Further words for the concept, which random words avoid, like its name.
        clip_skip: Number of the text encoder's last layers to skip.
        enough: The score at which a search may stop.
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
    """One attack, as the registry stores it.

    Attributes:
        name: The attack's name on the command line and in results.
        summary: One line.
        paper: Link to the paper.
        repository: Link to the reference implementation.
        config: Its settings, with the published defaults.
        images: Returns, for validated settings, how many images a search of one prompt generates at most.
        search: Takes a target, validated settings and a trial. Returns the prompts that bring the concept back, the
            best first; their seeds are ignored. It generates at most one image for each seed of the target, and raises
            an error if it cannot search: a failed search shows nothing about the eraser.
        embeds: Whether it returns embeddings, which only models accept that efface samples itself.
        gradient: Whether it follows a gradient through the text encoder, which needs a model with soft tokens.
        encodes: Whether it searches tokens by what the text encoder makes of them, which needs one CLIP.
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
    encodes: bool = False

    def unfit(self, model: Model, eraser: Eraser | None = None) -> str | None:
        """Why the attack cannot be used, as a predicate of the attack; None if it can.

        Args:
            model: The model.
            eraser: An eraser of the model, or None for the model alone.
        """
        if self.embeds and model.call_parameters is not None:
            return f"returns embeddings, which {model.name} does not accept from efface"
        if self.gradient and not (model.soft_tokens and model.call_parameters is None):
            return f"follows a gradient through one text encoder alone, which is not how {model.name} reads text"
        if self.encodes and not model.one_clip_encoder:
            return f"searches in one CLIP text encoder alone, which is not how {model.name} reads text"
        if not (self.gradient and eraser):
            return None
        # Both import torch, which lists of attacks do not need.
        from efface.apply.guard import GUARDS
        from efface.edits.kinds import GuardEdit

        names = [edit.guard for edit in eraser.edits if isinstance(edit, GuardEdit)]
        if guard := next((name for name in names if GUARDS.get(name).remembers), None):
            return f"follows the gradient of single steps, and what {guard} does at one depends on all earlier steps"
        return None

    def check_fit(self, model: Model, eraser: Eraser | None = None) -> None:
        """Check that the attack can be used.

        Args:
            model: The model.
            eraser: An eraser of the model, or None for the model alone.

        Raises:
            BadInput: It cannot be used.
        """
        if why := self.unfit(model, eraser):
            raise BadInput(f"The attack '{self.name}' {why}.")


def ranked(jobs: Sequence[Job], scores: Sequence[float]) -> list[tuple[Job, float]]:
    """Jobs with a score, the best first.

    Scores are compared to two decimals, so that rounding in a batch of another size does not change the order.

    Args:
        jobs: The images.
        scores: Their scores, NaN without one.

    Raises:
        RuntimeError: None has a score.
    """
    scored = [(job, score) for job, score in zip(jobs, scores, strict=True) if not math.isnan(score)]
    if not scored:
        raise RuntimeError("no image of its search has a verdict")
    return sorted(scored, key=lambda pair: -round(pair[1], 2))
