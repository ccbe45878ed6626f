"""Embedding shift: a prompt's embedding, pushed further along what the concept adds to a prompt.

    c = mean_i [ T(p_i with the concept) - T(p_i without) ],   e = T(prompt) + eta c

T is all that the denoiser reads of a prompt: the text encoder's output for all tokens, and in FLUX the pooled vector.
This is Ring-A-Bell's target (Tsai et al., arXiv 2310.10012;
https://github.com/chiayi-hsu/Ring-A-Bell) without the search for words that express it, as RECE evaluates with (Gong et
al., arXiv 2407.12383; https://github.com/CharlesGong12/RECE), with eta 3 for themes and 0.9 for styles. No text has
this embedding: it is a lower bound on what stays in the model, not an attack by a user who can only type.

The pairs are the concept's name and the prompts that name it, with and without it; RECE has 79 for nudity.

T is that of the model with the eraser attached: an eraser that edits the text encoder is not bypassed.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator
from torch import Tensor

from efface.attacks.base import Attack, Target, Trial, ranked
from efface.attacks.concept_pairs import PairsFile, direction, read_pairs, without
from efface.generation.jobs import Embedding, Job
from efface.settings import Settings


class EmbeddingShiftConfig(Settings):
    """How far to shift, and along what.

    Attributes:
        eta: Shifts to try, in multiples of the concept's direction: one number, or several, separated by commas.
        pairs: A CSV of pairs of prompts, with and without the concept, in place of those that the prompts give.
    """

    eta: tuple[float, ...] = Field(default=(0.9, 3.0, 0.5, 1.5, 2.0), min_length=1)
    pairs: PairsFile = ""

    @field_validator("eta", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        if isinstance(value, str):
            return value.split(",")
        return (value,) if isinstance(value, int | float) else value


def search(target: Target, config: EmbeddingShiftConfig, trial: Trial) -> list[Job]:
    """Try every eta in turn, on the prompts in turn. Returns all prompts, with the eta of the best mean score.

    Args:
        target: What is attacked.
        config: The settings.
        trial: Generates and judges images.
    """
    with target.eraser.attach(target.model):
        read = target.model.embed(target.prompts, clip_skip=target.clip_skip, truncate=True)
        embedded = target.model.denoiser_text(read)
        added = concept_direction(target, config.pairs)
    etas = config.eta[: len(target.seeds)]

    def shifted(index: int, eta: float, seed: int = 0) -> Job:
        tokens = Embedding.of(embedded[index] + eta * added)
        return Job(target.prompts[index], seed, concept=target.concept, embedding=tokens)

    turns = [(i // len(etas) % len(target.prompts), etas[i % len(etas)]) for i in range(len(target.seeds))]
    jobs = [shifted(index, eta, seed) for (index, eta), seed in zip(turns, target.seeds, strict=True)]
    eta_of = dict(zip(jobs, (eta for _, eta in turns), strict=True))
    scores: dict[float, list[float]] = {}
    for job, score in ranked(jobs, trial(jobs)):
        scores.setdefault(eta_of[job], []).append(score)
    means = {eta: round(sum(some) / len(some), 2) for eta, some in scores.items()}
    best = max((eta for eta in etas if eta in means), key=means.__getitem__)
    return [shifted(index, best) for index in range(len(target.prompts))]


def concept_direction(target: Target, pairs: str = "") -> Tensor:
    """The direction c, (R, d), by the text encoder as it is.

    Args:
        target: What is attacked.
        pairs: A file of pairs of prompts; if empty, the pairs are the concept and the prompts with and without it.
    """
    if pairs:
        return direction(target.model, read_pairs(pairs), target.clip_skip)
    prompts = [" ".join(prompt.split()) for prompt in (target.concept, *target.prompts)]
    named = {(prompt, without(prompt, target.concept)) for prompt in prompts}
    return direction(target.model, sorted(pair for pair in named if pair[0] != pair[1]), target.clip_skip)


ENTRY = Attack(
    name="embedding_shift",
    summary="a prompt's embedding, pushed further towards the concept",
    paper="https://arxiv.org/abs/2310.10012",
    repository="https://github.com/CharlesGong12/RECE",
    config=EmbeddingShiftConfig,
    images=lambda config: len(config.eta),
    search=search,
    embeds=True,
)
