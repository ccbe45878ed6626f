"""Concept inversion: a new word, learned by the edited model, that means what it forgot.

    min_v  mean | eps - eps_u(x_t, t, T(p_v)) |^2        p_v: the prompt with v where it names the concept

over pictures x_0 that the unedited model generates for the prompt and all times t, by AdamW. No text has the embedding
v: what comes back is what the weights still know, not what a user who can only type can reach.

Paper: Pham et al., "Circumventing Concept Erasure Methods For Text-to-Image Generative Models", arXiv 2308.01508 (ICLR
2024). Reference: https://github.com/NYU-DICE-Lab/circumventing-concept-erasure, which takes 5000 steps of 16 pictures
in fp16, 25 pictures of a style, and starts at the word "art"; its learning rate of 5e-3 is scaled by these 16.
`denoising` has the loss. Unlike the reference, the word is judged `checks` times on the way, the best one is returned,
and the search ends when the concept is back. The text of a step is the prompt of its picture, while the reference draws
it from templates (`learnable_property`). In a prompt that does not name the concept, v comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.attacks.base import Attack, Target, Trial, ranked
from efface.attacks.concept_pairs import without
from efface.attacks.denoising import Denoising
from efface.attacks.soft_prompt import SoftPrompt, edited_table
from efface.generation.jobs import Embedding, Job
from efface.methods.closed_form.tokens import OBJECT_TEMPLATES, STYLE_TEMPLATES
from efface.models.text.tokens import words_of
from efface.request.names import naming
from efface.settings import Settings


class InversionConfig(Settings):
    """The settings.

    Attributes:
        steps: Number of steps of AdamW.
        batch_size: Number of pictures of a step.
        lr: The learning rate, scaled.
        weight_decay: The weight decay of v.
        images: Number of pictures of each prompt.
        learnable_property: The texts of the steps: the prompts of the pictures, or, as in the reference, templates of
            an object or a style.
        initializer_token: The word that v starts at; of several tokens, the last.
        checks: How often, at even distances, an image with v is judged.
        attack_seed: Seed of pictures, times and noise.
    """

    steps: int = Field(default=5000, ge=1)
    batch_size: int = Field(default=16, ge=1)
    lr: float = Field(default=0.08, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    images: int = Field(default=25, ge=1)
    learnable_property: Literal["prompts", "object", "style"] = "prompts"
    initializer_token: str = Field(default="art", min_length=1)
    checks: int = Field(default=5, ge=1)
    attack_seed: int = 0


def search(target: Target, config: InversionConfig, trial: Trial) -> list[Job]:
    """Learn the word; one image for each check, on the prompts in turn. Returns the best word in every prompt.

    Args:
        target: What is attacked.
        config: The settings.
        trial: Generates and judges images.
    """
    denoising = Denoising(target)
    pictures = [denoising.pictures(prompt, config.images) for prompt in target.prompts]
    texts = [_naming(target, prompt) for prompt in target.prompts]
    templates = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}.get(config.learnable_property, ())
    training = [_naming(target, template.format(target.concept)) for template in templates] or texts
    (start,) = target.model.tokenizer([config.initializer_token])["input_ids"]
    word = edited_table(target)[[start[-2]]].requires_grad_()  # v, (1, d)
    adam = torch.optim.AdamW([word], lr=config.lr, weight_decay=config.weight_decay)
    draw = torch.Generator().manual_seed(config.attack_seed)
    checks = min(config.checks, config.steps, len(target.seeds))
    words: dict[Job, Tensor] = {}
    scores: list[float] = []
    for turn, seed in zip(range(checks), target.seeds, strict=False):
        steps = range(turn * config.steps // checks, (turn + 1) * config.steps // checks)
        with target.eraser.attach(target.model):
            for step in steps:
                index = step % len(pictures)
                rows = torch.randint(len(pictures[index]), (config.batch_size,), generator=draw)
                times = torch.randint(denoising.length, (config.batch_size,), generator=draw)
                noise = torch.randn(pictures[index][rows].shape, generator=draw)
                with torch.enable_grad():
                    text = training[step % len(training)].encode([0], word)
                    loss = denoising.loss(text, pictures[index][rows], times, noise)
                    word.grad = denoising.gradient(loss, word)
                adam.step()
            job = _job(target, texts, turn % len(texts), word.detach(), seed)
        words[job] = word.detach().clone()
        scores += trial([job])
        if scores[-1] >= target.enough:
            break
    best = words[ranked(list(words), scores)[0][0]]
    with target.eraser.attach(target.model):
        return [_job(target, texts, index, best) for index in range(len(texts))]


def _naming(target: Target, prompt: str) -> SoftPrompt:
    """The prompt with a free token in place of the concept's name; repetitions of the name are left out."""
    match = naming(target.concept).search(prompt)
    before, after = (prompt[: match.start()], prompt[match.end() :]) if match else ("", prompt)
    after = without(after, target.concept)
    rest = " ".join(f"{before} {after}".split())
    return SoftPrompt(target.model, rest, 1, words_of(target.model.tokenizer, before), target.clip_skip)


@torch.no_grad()
def _job(target: Target, texts: Sequence[SoftPrompt], index: int, word: Tensor, seed: int = 0) -> Job:
    """One prompt with the word (1, d), encoded with the eraser attached."""
    tokens = texts[index].encode([0], word)[0]
    return Job(target.prompts[index], seed, concept=target.concept, embedding=Embedding.of(tokens))


ENTRY = Attack(
    name="inversion",
    summary="a new word, learnt on the edited model from pictures of the concept",
    paper="https://arxiv.org/abs/2308.01508",
    repository="https://github.com/NYU-DICE-Lab/circumventing-concept-erasure",
    config=InversionConfig,
    images=lambda config: config.checks,
    search=search,
    embeds=True,
    gradient=True,
)
