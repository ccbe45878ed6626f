"""What `cie` and `sepce` share: what a concept is in the model, pictures to see that on, and when it is gone.

    r(x_t) = e(x_t, c) - e(x_t, '')               e: a prediction of the trained model, r0(x_t): the same of the base
    L      = mean r(x_t) r0(x_t)                  over all elements; with its sign, so that it can fall below 0
    m_0 = L_0,  m_n = 0.9 m_{n-1} + 0.1 L_n       stop after step n > 10 (the first is n = 0) once m_n < threshold

x_t is a noisy picture of the concept that the base drew. See `cie` for the sources.

Shapes: k concepts, n pictures of each, b of them in a batch, C latent channels, h and w latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from efface.methods.base import Latents
from efface.methods.training.objective import TrainingConfig, seeded
from efface.models.model import Model
from efface.progress import Progress
from efface.request.record import Request

_ALPHA, _FIRST = 0.9, 11
_AT_ONCE = 32  # pictures drawn between two tellings of progress


class CorrelationConfig(TrainingConfig):
    """Settings of both methods, by the reference's names where it has them.

    Attributes:
        iter_break: Steps of Adam at most.
        batch_size: Samples of one forward pass.
        accumulate_grads: Never set gradients to zero, as the published scripts do by an oversight.
        images: Pictures that are drawn of a concept; those of the published scripts are 1000, each used once.
        sampling_steps: Of a picture.
        guidance_scale: Of a picture.
        sampler: Of a picture; the published one is `lms`, with 100 steps.
    """

    iter_break: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=1, ge=1)
    accumulate_grads: bool = False
    images: int = Field(default=50, ge=1)
    sampling_steps: int = Field(default=20, ge=1)
    guidance_scale: float = Field(default=7.5, ge=0)
    sampler: str = "dpm++"


class Pictures:
    """Noisy pictures of concepts. They are drawn when they are first needed, and used in an order drawn anew each time.

    Args:
        model: The base, which draws them.
        request: Whose concepts.
        config: How many, how, and from which seed on.
        latents: Draws.
        progress: Told of it.
    """

    def __init__(
        self, model: Model, request: Request, config: CorrelationConfig, latents: Latents, progress: Progress | None
    ) -> None:
        self._request, self._config, self._latents, self._progress = request, config, latents, progress
        self._schedule = model.noise_schedule()
        self._device = model.device
        self._drawn: dict[str, Tensor] = {}  # x_0 of each concept so far, (n, C, h, w)

    def noisy(self, slot: int, step: int) -> tuple[Tensor, Tensor]:
        """One batch of each concept at the same timesteps: x_t (k, b, C, h, w) and t (b,)."""
        for name in self._request.names:
            self._draw(name)
        config, generator = self._config, seeded(self._config.seed, slot, step)
        places = range(step * config.batch_size, (step + 1) * config.batch_size)
        rows = [self._row(slot, place) for place in places]
        pictures = torch.stack([self._drawn[name][rows] for name in self._request.names])
        t = torch.randint(self._schedule.timesteps, (len(places),), generator=generator)
        noise = torch.randn(pictures.shape, generator=generator).to(self._device)
        t = t.to(self._device)
        x = self._schedule.add_noise(pictures.flatten(0, 1), noise.flatten(0, 1), t.repeat(len(pictures)))
        return x.unflatten(0, pictures.shape[:2]), t

    def state(self) -> dict[str, Tensor]:
        """What is drawn already."""
        return {f"pictures of {name}": drawn for name, drawn in self._drawn.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        found = {name: tensors.get(f"pictures of {name}") for name in self._request.names}
        self._drawn = {name: drawn.to(self._device) for name, drawn in found.items() if drawn is not None}

    def _row(self, slot: int, place: int) -> int:
        """Which picture comes at a place in the sequence that one slot uses."""
        turn, place = divmod(place, self._config.images)
        return int(torch.randperm(self._config.images, generator=seeded(self._config.seed, slot, turn, 0))[place])

    def _draw(self, prompt: str) -> None:
        """Draw what is missing, in the batches that an uninterrupted run draws."""
        config = self._config
        for first in range(len(self._drawn.get(prompt, ())), config.images, _AT_ONCE):
            last = min(first + _AT_ONCE, config.images)
            drawn = self._latents(
                prompt,
                range(config.seed + first, config.seed + last),
                steps=config.sampling_steps,
                guidance=config.guidance_scale,
                sampler=config.sampler,
                clip_skip=self._request.clip_skip,
            )
            before = [self._drawn[prompt]] if first else []
            self._drawn[prompt] = torch.cat([*before, drawn.to(self._device)])
            if self._progress:
                self._progress(f"pictures of {prompt}", last, config.images)


class Momentum:
    """Running means m of k losses.

    Args:
        k: How many.
        threshold: Below which one is to stop.
    """

    def __init__(self, k: int, threshold: float) -> None:
        self.values = torch.zeros(k, dtype=torch.float64)
        self._threshold = threshold

    def falls(self, step: int, losses: Sequence[float]) -> Tensor:
        """Take in the losses of a step, the first of which is 1; which of them are to stop now, (k,)."""
        found = torch.tensor(losses, dtype=torch.float64)
        self.values = found if step == 1 else _ALPHA * self.values + (1 - _ALPHA) * found
        return (self.values < self._threshold) & (step > _FIRST)
