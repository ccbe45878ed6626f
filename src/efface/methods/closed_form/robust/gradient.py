"""A gradient search for embeddings that restore the image of a concept; see `method`.

The unedited model samples the concept c with guidance, along latents x_t. The search looks for one shift x that is
added to the guide's prompt g from its last subject token on, such that the edited model predicts the same as the
unedited model does for the concept:

    min_x  mean_t |eps(x_t, M (g + x)) - eps(x_t, c)|^2 / |eps(x_t, g) - eps(x_t, c)|^2          score: its square root

by Adam. The latents are those of the model's own sampling, since for pure noise at a random timestep the prediction
hardly depends on the text. No image has to be decoded or judged. This is the search of concept inversion
(https://arxiv.org/abs/2308.01508) on the text encoder's output, the space with the fewest constraints, with a teacher
for the target.

Cost: 3 x STEPS denoiser calls per concept, once. Each round takes `gradient` calls with gradients, and STEPS more for
the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.edits.kinds import TextEdit
from efface.errors import BadRequest
from efface.models.denoising import Conditions, ddim_scheduler, guided
from efface.models.model import Model

STEPS = 8
GUIDANCE = 7.5
RATE = 0.1

State = tuple[Tensor, Tensor, Tensor]  # x_t, t and eps(x_t, c)


@dataclass(frozen=True, eq=False)
class Path:
    """The latents along which the unedited model samples a concept, and its predictions there.

    Attributes:
        latents: The latents x_t of each step, (STEPS, n, C, h, w).
        times: The timesteps, (STEPS,).
        aims: The predictions eps(x_t, c), (STEPS, n, C, h, w).
        guide: The embedding of the guide's prompt, (T, d).
        spoken: The mask of the shifted tokens, 1 from the last subject token on, (T, 1).
        errors: The squared distances |eps(x_t, g) - eps(x_t, c)|^2, (STEPS,).
    """

    latents: Tensor
    times: Tensor
    aims: Tensor
    guide: Tensor
    spoken: Tensor
    errors: Tensor


def denoising_paths(
    model: Model, prompts: tuple[str, ...], guides: tuple[str, ...], clip_skip: int | None, images: int, seed: int
) -> list[Path]:
    """Sample one path for each concept.

    Args:
        model: The unedited model.
        prompts: The prompt of each concept.
        guides: The prompt of each guide.
        clip_skip: The number of last layers of the text encoder to skip.
        images: The number of images of each path.
        seed: The seed of their noise.

    Raises:
        BadRequest: The denoiser reads more than a prompt's embedding, or the model has no DDIM schedule.
    """
    schedule, config = dict(model.scheduler_config), model.denoiser.config
    if "beta_schedule" not in schedule or getattr(config, "addition_embed_type", None) is not None:
        raise BadRequest(f"The gradient search does not support the text conditioning of {model.name}; set gradient=0.")
    scheduler = ddim_scheduler(schedule)
    concepts, others = (model.embed(texts, clip_skip=clip_skip) for texts in (prompts, guides))
    empty = model.embed([""], clip_skip=clip_skip).argument[0]
    shape = (images, *model.latent_shape)
    paths: list[Path] = []
    for row in range(len(prompts)):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        states = _drawn(model, scheduler, noise, concepts.argument[row], empty)
        spoken = (torch.arange(len(empty))[:, None] >= others.last[row].clamp(min=1)).double()
        paths.append(_path(model, states, others.argument[row], spoken))
    return paths


@torch.no_grad()
def _path(model: Model, states: Sequence[State], guide: Tensor, spoken: Tensor) -> Path:
    latents, times, aims = (torch.stack(values) for values in zip(*states, strict=True))
    misses = [_predicted(model, latents, t, guide) - aim for latents, t, aim in states]
    errors = torch.stack([miss.double().square().sum() for miss in misses])
    return Path(latents, times, aims, guide.double(), spoken, errors)


@torch.no_grad()
def _drawn(model: Model, scheduler: Any, noise: Tensor, text: Tensor, empty: Tensor) -> list[State]:
    """Guided DDIM steps from noise (n, C, h, w)."""
    scheduler.set_timesteps(STEPS)
    x, states = noise, list[State]()
    for t in scheduler.timesteps:
        conditional, unconditional = _predicted(model, x, t, text), _predicted(model, x, t, empty)
        states.append((x, t, conditional))
        x = scheduler.step(guided(unconditional, conditional, GUIDANCE), t, x, return_dict=False)[0]
    return states


def search_shift(model: Model, edit: TextEdit, path: Path, start: Tensor, steps: int) -> tuple[Tensor, float]:
    """Search for the shift that restores a concept best.

    Args:
        model: The unedited model.
        edit: The edit.
        path: The path of the concept.
        start: The first shift, (d,).
        steps: The number of steps of Adam.

    Returns:
        The shift, (d,), and its score; `start` and its score if no other shift is better.
    """
    scale = start.norm() / len(start) ** 0.5
    moved = torch.zeros_like(start, requires_grad=True)
    optimiser = torch.optim.Adam([moved], lr=RATE)
    with torch.enable_grad():
        for step in range(steps):
            at = step % STEPS
            loss = _error(model, edit, path, start + scale * moved, at) / path.errors[at]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    shifts = (start, start + scale * moved.detach())
    with torch.no_grad():
        scores = [_score(model, edit, path, shift) for shift in shifts]
    best = scores.index(min(scores))
    return shifts[best], scores[best]


def _score(model: Model, edit: TextEdit, path: Path, shift: Tensor) -> float:
    errors = torch.stack([_error(model, edit, path, shift, at) for at in range(STEPS)])
    return float((errors / path.errors).mean().sqrt())


def _error(model: Model, edit: TextEdit, path: Path, shift: Tensor, at: int) -> Tensor:
    """|eps(x_t, M (g + x)) - eps(x_t, c)|^2 at one step."""
    text = edit(path.guide + path.spoken * shift)
    return (_predicted(model, path.latents[at], path.times[at], text) - path.aims[at]).double().square().sum()


def _predicted(model: Model, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """The denoiser's prediction for n latents with the same text (T, d)."""
    return model.predict(latents, t, Conditions(text[None])).cpu()
