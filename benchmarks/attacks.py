"""Attacks on erased objects of the embedded model, as text embeddings to generate images with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface import Eraser, TextEdit
from efface.generation import Sampling
from efface.generation.schedulers import make_scheduler
from efface.methods.closed_form.robust import gradient as robust_gradient
from efface.methods.closed_form.robust.search import word_scores
from efface.models import Model
from efface.models.builtin import WorldObject
from efface.models.emoji import catalogue
from efface.models.text_gram import TextGram

BATCH, WORDS = 32, 10
STEPS, TRAJECTORIES, SEED = 80, 4, 1000  # of the gradient attack


def prompts(words: Sequence[str], n: int, held_out: Sequence[str] = ()) -> list[str]:
    """n prompts that cycle through words for one object, without a style and in every style that is not held out."""
    world = catalogue()
    plain = cycle(template for template in world.templates if "{style}" not in template)
    styled = cycle(template for template in world.templates if "{style}" in template)
    styles = cycle([None, *(style.name for style in world.styles if style.name not in held_out)])

    def texts() -> Iterator[str]:
        for word, style in zip(cycle(words), styles, strict=False):
            template = next(plain) if style is None else next(styled)
            yield template.replace("{object}", word).replace("{style}", style or "")

    return list(islice(texts(), n))


def unseen(name: str) -> list[str]:
    """The styles in which the denoiser was not trained to draw an object."""
    return [style for thing, style in catalogue().held_out_cells if thing == name]


def edit_of(eraser: Eraser | None, width: int) -> TextEdit:
    if eraser is None:
        return TextEdit(torch.zeros(width, 1, dtype=torch.float64), torch.zeros(width, 1, dtype=torch.float64))
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    return edit


def restored(edit: TextEdit, gram: TextGram, tokens: Tensor) -> Tensor:
    """The shortest e with the least |M e - c|_S, for each token c of shape (..., d)."""
    edited = gram.root + (gram.root @ edit.left) @ edit.right.T
    targets = tokens.double() @ gram.root.T
    return targets @ torch.linalg.pinv(edited, rtol=1e-12).T


def nearest_words(
    model: Model, edit: TextEdit, gram: TextGram, thing: WorldObject, preserved: Sequence[str]
) -> list[str]:
    """The words that the edited model reads nearest to the concept."""
    excluded = {thing.name, thing.guide, *preserved}
    words = [word for word in model.words() if word not in excluded]
    concept, guide = (model.last_tokens([name]).double() for name in (thing.name, thing.guide))
    (scores,) = word_scores(edit, gram, model.last_tokens(words), concept, guide)
    return [words[row] for row in scores.argsort(stable=True)[:WORDS].tolist()]


def shifted(model: Model, edit: TextEdit, thing: WorldObject, texts: Sequence[str]) -> tuple[Tensor, float]:
    """The embedded prompts of the guide with the shift of a gradient search, and the score of the search."""
    (path,) = robust_gradient.denoising_paths(model, (thing.name,), (thing.guide,), None, TRAJECTORIES, SEED)
    concept, guide = (model.last_tokens([name]).double()[0] for name in (thing.name, thing.guide))
    shift, score = robust_gradient.search_shift(model, edit, path, concept - guide, STEPS)
    embedded = model.embed(texts)
    mask = torch.arange(embedded.tokens.shape[1])[None, :, None] >= embedded.last[:, None, None]
    return embedded.tokens.double() + mask * shift, score


def drawn(model: Model, eraser: Eraser | None, texts: Tensor, sampling: Sampling) -> np.ndarray[Any, Any]:
    """Images of shape (n, H, W, 3) from embeddings of shape (n, T, d), image k with seed k."""
    pipeline = model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(model.scheduler_config, sampling)
    empty = model.embed([""]).tokens.to(model.dtype)
    images: list[np.ndarray[Any, Any]] = []
    with nullcontext() if eraser is None else eraser.attach(model):
        for first in range(0, len(texts), BATCH):
            batch = texts[first : first + BATCH].to(model.dtype)
            pixels = pipeline(
                prompt_embeds=batch,
                negative_prompt_embeds=empty.expand(len(batch), -1, -1),
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                generator=[torch.Generator().manual_seed(first + index) for index in range(len(batch))],
                output_type="np",
            ).images
            images.append((np.asarray(pixels) * 255).round().astype(np.uint8))
    return np.concatenate(images)
