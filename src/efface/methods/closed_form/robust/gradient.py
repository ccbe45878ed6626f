"""A search for what brings the picture of a concept back, whatever its own keys and values do; see `robust`.

Along the paths x_t by which the unedited model draws the concept c, with guidance, it looks for one shift x such that
the edited model, told the guide's prompt g with x added from its last subject token on, predicts what the unedited
model predicts for the concept:

    min_x  mean_t |eps(x_t, M (g + x)) - eps(x_t, c)|^2 / |eps(x_t, g) - eps(x_t, c)|^2          score: its square root

by Adam. The states are the model's own on its way to the concept, since on plain noise at a random time hardly anything
depends on the text; so nothing has to be sampled, decoded or judged beforehand. It is the search of concept inversion
(https://arxiv.org/abs/2308.01508) on the encoder's output, where it is least hindered, with a teacher for the target.

Cost: 3 x STEPS denoiser calls for a concept's paths, once; a round takes `gradient` calls with their gradients, and
STEPS more for the score.
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
    """How the unedited model draws a concept.

    Attributes:
        latents: x_t at each step, (STEPS, n, C, h, w).
        times: (STEPS,).
        aims: eps(x_t, c), like the latents.
        guide: the guide's prompt, (T, d).
        spoken: (T, 1), 1 from its last subject token on.
        errors: |eps(x_t, g) - eps(x_t, c)|^2, (STEPS,).
    """

    latents: Tensor
    times: Tensor
    aims: Tensor
    guide: Tensor
    spoken: Tensor
    errors: Tensor


def paths(
    model: Model, prompts: tuple[str, ...], guides: tuple[str, ...], clip_skip: int | None, images: int, seed: int
) -> list[Path]:
    """One for each concept, of `images` pictures.

    Raises:
        BadRequest: the model is not told its text by prompts alone, or does not predict noise along a DDIM schedule.
    """
    schedule, config = dict(model.scheduler_config), model.denoiser.config
    if "beta_schedule" not in schedule or getattr(config, "addition_embed_type", None) is not None:
        raise BadRequest(f"The gradient search does not know how {model.name} is told its text; set gradient=0.")
    scheduler = ddim_scheduler(schedule)
    concepts, others = (model.embed(said, clip_skip=clip_skip) for said in (prompts, guides))
    empty = model.embed([""], clip_skip=clip_skip).tokens[0]
    shape = (images, *model.latent_shape)
    found: list[Path] = []
    for row in range(len(prompts)):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        states = _drawn(model, scheduler, noise, concepts.tokens[row], empty)
        spoken = (torch.arange(len(empty))[:, None] >= others.last[row].clamp(min=1)).double()
        found.append(_path(model, states, others.tokens[row], spoken))
    return found


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


def search(model: Model, edit: TextEdit, path: Path, start: Tensor, steps: int) -> tuple[Tensor, float]:
    """The shift (d,) that brings a concept nearest, from `start` on, and its score."""
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
    said = edit(path.guide + path.spoken * shift)
    return (_predicted(model, path.latents[at], path.times[at], said) - path.aims[at]).double().square().sum()


def _predicted(model: Model, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """What the denoiser predicts for n latents that are all told the same text (T, d)."""
    return model.predict(latents, t, Conditions(text[None])).cpu()
