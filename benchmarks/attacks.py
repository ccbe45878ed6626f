"""Ways to bring an erased object of the embedded model back, as embeddings to draw pictures of."""

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
from efface.models.emoji import EmojiObject, catalogue
from efface.models.text_gram import TextGram

BATCH, WORDS = 32, 10
STEPS, PICTURES, SEED = 80, 4, 1000  # of the gradient attack


def prompts(words: Sequence[str], n: int, held_out: Sequence[str] = ()) -> list[str]:
    """n prompts that say one thing in each of the words in turn, plainly and in every style it was drawn in."""
    world = catalogue()
    plain = cycle(template for template in world.templates if "{style}" not in template)
    styled = cycle(template for template in world.templates if "{style}" in template)
    looks = cycle([None, *(style.name for style in world.styles if style.name not in held_out)])

    def said() -> Iterator[str]:
        for word, look in zip(cycle(words), looks, strict=False):
            template = next(plain) if look is None else next(styled)
            yield template.replace("{object}", word).replace("{style}", look or "")

    return list(islice(said(), n))


def unseen(name: str) -> list[str]:
    """Styles that the denoiser never drew an object in."""
    return [style for thing, style in catalogue().held_out_cells if thing == name]


def edit_of(eraser: Eraser | None, width: int) -> TextEdit:
    if eraser is None:
        return TextEdit(torch.zeros(width, 1, dtype=torch.float64), torch.zeros(width, 1, dtype=torch.float64))
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    return edit


def restored(edit: TextEdit, gram: TextGram, tokens: Tensor) -> Tensor:
    """For each token c (..., d) the shortest e with the least |M e - c|_S."""
    through = gram.root + (gram.root @ edit.left) @ edit.right.T
    heard = tokens.double() @ gram.root.T
    return heard @ torch.linalg.pinv(through, rtol=1e-12).T


def nearest_words(model: Model, edit: TextEdit, gram: TextGram, thing: EmojiObject, spared: Sequence[str]) -> list[str]:
    """The words that the edited model reads nearest to the concept."""
    closed = {thing.name, thing.guide, *spared}
    words = [word for word in model.words() if word not in closed]
    own, guide = (model.last_tokens([name]).double() for name in (thing.name, thing.guide))
    (scores,) = word_scores(edit, gram, model.last_tokens(words), own, guide)
    return [words[row] for row in scores.argsort(stable=True)[:WORDS].tolist()]


def shifted(model: Model, edit: TextEdit, thing: EmojiObject, said: Sequence[str]) -> tuple[Tensor, float]:
    """The guide's prompts with the shift that a gradient search finds, and the search's score."""
    (path,) = robust_gradient.paths(model, (thing.name,), (thing.guide,), None, PICTURES, SEED)
    own, guide = (model.last_tokens([name]).double()[0] for name in (thing.name, thing.guide))
    shift, score = robust_gradient.search(model, edit, path, own - guide, STEPS)
    embedded = model.embed(said)
    places = torch.arange(embedded.tokens.shape[1])[None, :, None] >= embedded.last[:, None, None]
    return embedded.tokens.double() + places * shift, score


def drawn(model: Model, eraser: Eraser | None, texts: Tensor, sampling: Sampling) -> np.ndarray[Any, Any]:
    """Pictures (n, H, W, 3) of embeddings (n, T, d), image k from seed k."""
    pipeline = model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(model.scheduler_config, sampling)
    empty = model.embed([""]).tokens.to(model.dtype)
    found: list[np.ndarray[Any, Any]] = []
    with nullcontext() if eraser is None else eraser.attach(model):
        for first in range(0, len(texts), BATCH):
            some = texts[first : first + BATCH].to(model.dtype)
            pictures = pipeline(
                prompt_embeds=some,
                negative_prompt_embeds=empty.expand(len(some), -1, -1),
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                generator=[torch.Generator().manual_seed(first + index) for index in range(len(some))],
                output_type="np",
            ).images
            found.append((np.asarray(pictures) * 255).round().astype(np.uint8))
    return np.concatenate(found)
