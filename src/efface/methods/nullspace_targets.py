"""Targets of the null-space edit: values of one layer with which the denoiser takes the concept for its guide.

For copies i = 1 .. b of the concept's prompt, each with its own picture x_0, timestep t and noise n, drawn by the base:

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) n
    z   = argmin_z mean | e(x_t, t, text with z in the layer) - e(x_t, t, base's text of the guide) |^2

by a few steps of Adam from what the layer puts out by now. The gradient runs through the later layers of the text
encoder and the denoiser, to z alone. With `sigma_noise`, x_t = x_0 + sqrt((1 - a_t) / a_t) n: the space of LMS, without
the scaling that the denoiser needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from efface.errors import BadInput
from efface.methods.base import Latents
from efface.methods.nullspace_config import NullspaceConfig
from efface.methods.nullspace_tower import TextTower
from efface.models.base import Model

_APART = 2**40  # keeps the noise of x_t apart from that which pictures start from, whose seeds are 32 bits


class Targets:
    """Optimises targets for one concept after the other.

    Args:
        model: the base, which is only read.
        tower: the text encoder as it is edited.
        latents: draws pictures by the base.
        config: the method's.

    Raises:
        BadInput: the model is in a type that gradients do not survive.
    """

    def __init__(self, model: Model, tower: TextTower, latents: Latents, config: NullspaceConfig) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        self._model, self._tower, self._latents, self._config = model, tower, latents, config
        if model.dtype == torch.float16:
            raise BadInput(f"Gradients through {model.name} vanish in float16; open it in float32 or bfloat16.")
        schedule: Any = DDPMScheduler.from_config(dict(model.scheduler_config))
        self._alphas: Tensor = schedule.alphas_cumprod
        self._random = torch.Generator().manual_seed(_APART + config.seed)

    def draw(self, prompt: str, guide: Tensor, batch: int, clip_skip: int | None) -> None:
        """New pictures of a concept, and what it shall be read as.

        Args:
            prompt: the concept's.
            guide: the base's text of the guide, (T, d).
            batch: how many batches were drawn before; decides the seeds.
            clip_skip: as the request's.
        """
        config = self._config
        first = config.seed + batch * config.batch_size
        self._pictures = self._latents(
            prompt,
            range(first, first + config.batch_size),
            steps=config.sampling_steps,
            guidance=config.guidance_scale,
            sampler=config.sampler,
            clip_skip=clip_skip,
        )
        self._guide = guide.to(self._model.device).expand(config.batch_size, -1, -1)

    def optimised(self, ids: Tensor, layer: int, keys: Tensor) -> Tensor:
        """z for each picture, (b, T, d), of a layer with inputs `keys` (T, h) for the prompt `ids` (1, T)."""
        config, copies = self._config, self._config.batch_size
        with torch.no_grad():
            start = self._tower.values(layer, keys)
        loss = self.loss(ids, layer)
        z = start.expand(copies, -1, -1).clone().requires_grad_()
        adam = torch.optim.Adam([z], lr=config.lr)
        with torch.enable_grad():
            for _ in range(config.adam_steps):
                (z.grad,) = torch.autograd.grad(loss(z), z)
                adam.step()
        return z.detach()

    def loss(self, ids: Tensor, layer: int) -> Callable[[Tensor], Tensor]:
        """The loss of a layer's values z (b, T, d), for timesteps and noise that are drawn now."""
        config, copies = self._config, self._config.batch_size
        t = torch.randint(config.first_timestep, config.last_timestep + 1, (copies,), generator=self._random)
        noise = torch.randn(self._pictures.shape, generator=self._random)
        noisy = noised(self._pictures.cpu(), noise, self._alphas[t], config.sigma_noise).to(self._model.device)
        t, ids = t.to(self._model.device), ids.expand(copies, -1)
        with torch.no_grad():
            wanted = self._predicted(noisy, t, self._guide)
        return lambda z: F.mse_loss(self._predicted(noisy, t, self._tower.text(ids, layer, z)), wanted)

    def _predicted(self, noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """What the denoiser makes of noisy latents (b, C, h, w) and texts (b, T, d), float32."""
        to = self._model.dtype
        return self._model.denoiser(noisy.to(to), t, encoder_hidden_states=text.to(to), return_dict=False)[0].float()


def noised(pictures: Tensor, noise: Tensor, alphas: Tensor, sigma_noise: bool) -> Tensor:
    """x_t of x_0 (b, C, h, w), with a_t (b,); see the module."""
    a = alphas.view(-1, 1, 1, 1)
    return pictures + ((1 - a) / a).sqrt() * noise if sigma_noise else a.sqrt() * pictures + (1 - a).sqrt() * noise
