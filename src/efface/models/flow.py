"""Rectified flow: the noise of training, and the schedulers of models that are trained by flow matching.

With s = t / 1000, a noisy latent and what the denoiser predicts of it are (arXiv 2209.03003)

    x_t    = (1 - s) x_0 + s eps
    target = eps - x_0.

A scheduler of such a model does not scale the input of the denoiser.

Shapes: b samples, C latent channels, h and w latent size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

TIMESTEPS = 1000
NoiseLevels = Literal["even", "scheduler", "flux2"]
_FLOW_MATCH = "FlowMatch"  # how the names of such schedulers begin


class FlowSchedule:
    """How noisy the latents of each timestep are in training, and the velocity that the denoiser predicts there."""

    timesteps = TIMESTEPS

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noisy latents x_t, (b, C, h, w).

        Args:
            latents: The clean latents x_0, (b, C, h, w).
            noise: Noise eps of unit variance, (b, C, h, w).
            t: Timesteps, (b,).
        """
        return torch.lerp(latents, noise, (t.to(latents) / TIMESTEPS).view(-1, 1, 1, 1))

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser is trained to predict for `add_noise` of the same arguments, (b, C, h, w).

        Args:
            latents: The clean latents x_0, (b, C, h, w).
            noise: Noise eps of unit variance, (b, C, h, w).
            t: Timesteps, (b,); the velocity is the same at all of them.
        """
        return noise - latents


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether the scheduler of this configuration is for a model that is trained by flow matching.

    Sana and Wan are published with schedulers that serve models of both kinds.
    """
    named = str(config.get("_class_name", "")).startswith(_FLOW_MATCH)
    return named or bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def set_timesteps(
    scheduler: Any, steps: int, latent_shape: tuple[int, ...], device: torch.device | str, levels: NoiseLevels = "even"
) -> None:
    """Set the timesteps of sampling as the model's pipeline does.

    FLUX spaces its noise levels evenly from 1 to 1 / steps, and SD3 leaves that to the scheduler. The scheduler shifts
    them, by a constant or by the number of image tokens, of 2x2 latents each; FLUX.2 shifts by the steps too.

    Args:
        scheduler: A scheduler of diffusers.
        steps: Number of steps.
        latent_shape: Shape (C, h, w) of the latents.
        device: The device of the timesteps.
        levels: How noise levels are spaced: as for FLUX, by the scheduler, or as for FLUX.2.
    """
    if not type(scheduler).__name__.startswith(_FLOW_MATCH):
        scheduler.set_timesteps(steps, device=device)
        return
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    config, tokens = scheduler.config, latent_shape[-2] * latent_shape[-1] // 4
    mu = None
    if config.use_dynamic_shifting and levels == "flux2":
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        mu = compute_empirical_mu(tokens, steps)
    elif config.use_dynamic_shifting:
        ends = (config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)
        mu = calculate_shift(tokens, *ends)
    even = {"sigmas": np.linspace(1.0, 1 / steps, steps)}
    spaced: dict[str, Any] = {"num_inference_steps": steps} if levels == "scheduler" else even
    scheduler.set_timesteps(**spaced, mu=mu, device=device)


def scaled_noise(scheduler: Any, noise: Tensor) -> Tensor:
    """Noise of unit variance (b, C, h, w) as the latents of the first timestep."""
    return noise * getattr(scheduler, "init_noise_sigma", 1.0)


def model_input(scheduler: Any, latents: Tensor, t: Tensor) -> Tensor:
    """Latents at a timestep as the denoiser reads them.

    Args:
        scheduler: A scheduler of diffusers.
        latents: The latents, (b, C, h, w).
        t: The timestep, a scalar.
    """
    return scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents
