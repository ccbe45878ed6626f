"""The edited model as its own classifier: a text that says a concept helps it to denoise pictures of the concept.

    L(text) = mean | eps - eps_u(x_t, t, text) |^2,    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

with pictures x_0 that the unedited model drew; where a model predicts velocities, of these. Guards steer guidance: with
one on the model, eps_u is the guided prediction.

Shapes: n pictures, C latent channels, h and w latent size, T tokens, d text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efface.attacks.base import Target
from efface.edits.kinds import ValueGuard
from efface.models.denoising import Conditions, guided

_STEPS, _GUIDANCE = 25, 7.5  # of pictures


class Denoising:
    """The loss of one target. Pictures are latents, drawn by DPM-Solver++ when they are first asked for."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._schedule = target.model.noise_schedule()
        self._pictures: dict[str, Tensor] = {}
        self._guarded = any(isinstance(edit, ValueGuard) for edit in target.eraser.edits)
        self._null: Tensor | None = None  # (1, T, d), by the text encoder with the eraser on it

    @property
    def length(self) -> int:
        """How many timesteps the schedule has."""
        return self._schedule.timesteps

    def pictures(self, prompt: str, n: int = 1) -> Tensor:
        """(n, C, h, w), by the search's first seed and those after it; to be drawn without the eraser."""
        if prompt not in self._pictures:
            first = self._target.seeds[0]
            self._pictures[prompt] = self._target.latents(
                prompt,
                range(first, first + n),
                steps=_STEPS,
                guidance=_GUIDANCE,
                sampler="dpm++",
                clip_skip=self._target.clip_skip,
            ).cpu()
        return self._pictures[prompt]

    def loss(self, text: Tensor, pictures: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """L of one text (1, T, d), with the eraser on the model.

        Args:
            text: gradients go through it.
            pictures: x_0, (n, C, h, w).
            times: t, (n,).
            noise: eps, like the pictures.
        """
        aim = self._schedule.target(pictures, noise, times)
        found = self._predicted(self._schedule.add_noise(pictures, noise, times), times, text)
        return (found - aim.to(found)).square().mean()

    def gradient(self, loss: Tensor, embeddings: Tensor) -> Tensor:
        """Of the loss by embeddings, in their place and shape; scaled on its way, as half precision ends at 6e-8."""
        scale = 1024.0 if self._target.model.dtype == torch.float16 else 1.0
        (gradient,) = torch.autograd.grad(scale * loss, [embeddings])
        return gradient / scale

    def _predicted(self, noisy: Tensor, times: Tensor, text: Tensor) -> Tensor:
        """eps_u, (n, C, h, w), float32."""
        model, n = self._target.model, len(noisy)
        if not self._guarded:
            return model.predict(noisy, times, Conditions(text))
        if self._null is None:
            self._null = model.embed([""], clip_skip=self._target.clip_skip).tokens
        both = torch.cat([self._null.to(text).expand(n, -1, -1), text.expand(n, -1, -1)])
        prediction = model.predict(noisy.repeat(2, 1, 1, 1), times.repeat(2), Conditions(both))
        unconditional, conditional = prediction.chunk(2)
        return guided(unconditional, conditional, _GUIDANCE)
