"""The edited model as its own classifier: a text with a concept's meaning lowers the denoising loss of its images.

    L(text) = mean | eps - eps_u(x_t, t, text) |^2,    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

with images x_0 of the unedited model; if the model predicts velocities, the loss is that of the velocity. A guard
changes guidance: if one is attached, eps_u is the guided prediction.

Shapes: n images, C latent channels, h and w latent size, T tokens, d text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efface.attacks.base import Target
from efface.edits.kinds import GuardEdit
from efface.models.denoising import Conditions, guided

_STEPS, _GUIDANCE = 25, 7.5  # of the images


class Denoising:
    """The denoising loss of one target.

    Images are latents, which are generated with DPM-Solver++ when they are first used.

    Args:
        target: The model, its eraser and the seeds.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._schedule = target.model.noise_schedule()
        self._pictures: dict[str, Tensor] = {}
        self._guarded = any(isinstance(edit, GuardEdit) for edit in target.eraser.edits)
        self._null: Tensor | None = None  # (1, T, d), by the text encoder as it is when first used

    @property
    def length(self) -> int:
        """Number of timesteps of the schedule."""
        return self._schedule.timesteps

    def spread(self, parts: int) -> list[int]:
        """The middles of equal parts of the schedule, at most one for each seed of the target, ascending."""
        parts = min(parts, len(self._target.seeds))
        return [int((part + 0.5) * self.length / parts) for part in range(parts)]

    def pictures(self, prompt: str, n: int = 1) -> Tensor:
        """Latents of n images of a prompt, (n, C, h, w), from the first seed of the search on, without the eraser."""
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

    def noisy(self, pictures: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """The noisy latents x_t, (n, C, h, w).

        Args:
            pictures: Latents x_0, (n, C, h, w).
            times: Timesteps t, (n,).
            noise: Noise eps, (n, C, h, w).
        """
        return self._schedule.add_noise(pictures, noise, times)

    def loss(self, text: Tensor, pictures: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """The loss L of one text, a scalar, with the eraser on the model.

        Args:
            text: The text embedding, (1, T, d); gradients flow to it.
            pictures: Latents x_0, (n, C, h, w).
            times: Timesteps t, (n,).
            noise: Noise eps, (n, C, h, w).
        """
        target = self._schedule.target(pictures, noise, times)
        prediction = self.predicted(self.noisy(pictures, times, noise), times, text)
        return (prediction - target.to(prediction)).square().mean()

    def gradient(self, loss: Tensor, embeddings: Tensor) -> Tensor:
        """Gradient of the scalar loss by embeddings, of the same shape; scaled against underflow in half precision."""
        scale = 1024.0 if self._target.model.dtype == torch.float16 else 1.0
        (gradient,) = torch.autograd.grad(scale * loss, [embeddings])
        return gradient / scale

    def predicted(self, noisy: Tensor, times: Tensor, text: Tensor) -> Tensor:
        """The prediction of the model as it is, (n, C, h, w), float32: guided if the eraser has a guard.

        Args:
            noisy: Noisy latents x_t, (n, C, h, w).
            times: Timesteps t, (n,).
            text: The text embedding, (1, T, d); gradients flow to it.
        """
        model, n = self._target.model, len(noisy)
        if not self._guarded:
            return model.predict(noisy, times, Conditions(text))
        if self._null is None:
            self._null = model.denoiser_text(model.embed([""], clip_skip=self._target.clip_skip))
        both = torch.cat([self._null.to(text).expand(n, -1, -1), text.expand(n, -1, -1)])
        prediction = model.predict(noisy.repeat(2, 1, 1, 1), times.repeat(2), Conditions(both))
        unconditional, conditional = prediction.chunk(2)
        return guided(unconditional, conditional, _GUIDANCE)
