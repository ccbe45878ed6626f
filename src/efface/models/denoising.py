"""The parts of denoising that every caller shares: the call of the denoiser, guidance and the noise of training.

With abar_t the cumulative product of 1 - beta, a noisy latent and what the denoiser predicts of it are

    x_t    = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
    target = eps                                            prediction type "epsilon" (arXiv 2006.11239)
    target = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0        prediction type "v_prediction" (arXiv 2202.00512)

and classifier-free guidance (arXiv 2207.12598) with scale g is

    prediction = unconditional + g * (conditional - unconditional).

A model that is trained by flow matching has no schedule of betas; `FlowSchedule` has its x_t and its target.

Shapes: b samples, C latent channels, h and w latent size, T tokens, d text width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from efface.errors import BadInput
from efface.models.flow import FlowSchedule, is_flow
from efface.models.modules import plain
from efface.models.parameters import Parameters, call_with


def latents_of_encoding(encoded: Tensor, config: Any) -> Tensor:
    """Latents as the denoiser reads them, (b, C, h, w), from the output of an autoencoder with this configuration."""
    return (encoded - _shift(config)) * config.scaling_factor


def encoding_of_latents(latents: Tensor, config: Any) -> Tensor:
    """The inverse of `latents_of_encoding`: what the autoencoder decodes, (b, C, h, w)."""
    return latents / config.scaling_factor + _shift(config)


def check_encodes(vae: Any) -> None:
    """Check that an autoencoder is of the kind whose latents `latents_of_encoding` scales.

    Raises:
        BadInput: It is another autoencoder.
    """
    kind = type(plain(vae)).__name__
    if kind != "AutoencoderKL":
        raise BadInput(f"The images of this model are encoded by a {kind}; training on images does not support that.")


def _shift(config: Any) -> float:
    return getattr(config, "shift_factor", None) or 0.0


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a denoiser reads besides the noisy latents and the timestep.

    Attributes:
        text: Prompt embeddings, (b, T, d), or (1, T, d) if all samples read the same.
        others: Further arguments of the denoiser by name, such as SDXL's `added_cond_kwargs` or SD3's
            `pooled_projections`; tensors may be nested in mappings.
    """

    text: Tensor
    others: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditions:
        """The same on a device; floating tensors become `dtype`."""
        return Conditions(self.text.to(device, dtype), _to(self.others, device, dtype))


def _to(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {name: _to(item, device, dtype) for name, item in items}
    return value


def with_pooled(text: Tensor, pooled: Tensor) -> Tensor:
    """Tokens and pooled vectors as one tensor, which samplers and trainers pass around as the text of a prompt.

    Args:
        text: Tokens, (n, T, d).
        pooled: Pooled embeddings, (n, p) with p <= d.

    Returns:
        The tokens and one more row, the pooled vector padded with zeros, (n, T + 1, d).
    """
    row = pad(pooled, (0, text.shape[-1] - pooled.shape[-1])).to(text)
    return torch.cat([text, row[:, None]], dim=1)


def without_pooled(text: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The inverse of `with_pooled`: tokens (n, T, d) and pooled embeddings (n, p).

    Args:
        text: The result of `with_pooled`, (n, T + 1, d).
        width: The width p of the pooled embeddings.
    """
    return text[:, :-1], text[:, -1, :width]


def call_denoiser(
    denoiser: Any, x: Tensor, t: Tensor, conditions: Conditions, parameters: Parameters | None = None
) -> Tensor:
    """Call a denoiser once; see `Model.predict`, which moves the arguments to the denoiser's device and type.

    Args:
        denoiser: A U-Net or transformer of diffusers.
        x: Noisy latents, (b, C, h, w).
        t: Timesteps, (b,), or a scalar.
        conditions: What else it reads.
        parameters: What differs from the denoiser's own parameters.

    Returns:
        The prediction, (b, C, h, w), float32.
    """
    text = conditions.text
    # Not a view of a whole batch: diffusers' cache of keys and values knows a text by the tensor.
    text = text if len(text) == len(x) else text.expand(len(x), -1, -1)
    # By name: U-Nets and transformers have the timestep at different places.
    named = {"timestep": t, "encoder_hidden_states": text, **conditions.others, "return_dict": False}
    return call_with(denoiser, parameters or {}, (x,), named)[0].float()


def guided(unconditional: Tensor, conditional: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance of two predictions of one shape.

    Args:
        unconditional: Prediction for the empty or the negative prompt, (b, C, h, w).
        conditional: Prediction for the prompt, (b, C, h, w).
        scale: The factor g, a number, or a tensor that broadcasts against the predictions.

    Returns:
        The guided prediction, (b, C, h, w).
    """
    return unconditional + scale * (conditional - unconditional)


def ddim_scheduler(config: Mapping[str, Any], **options: Any) -> Any:
    """A fresh DDIM scheduler (arXiv 2010.02502) for latents, with the betas of a model's scheduler configuration."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    # Latents are not bounded by 1: the clipping that is this scheduler's default would damage them.
    return DDIMScheduler.from_config(dict(config), **{"clip_sample": False, **options})


class NoiseSchedule:
    """How noisy the latents of each timestep are in a model's training, and what the denoiser predicts there.

    Args:
        config: The configuration of the model's scheduler.

    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        self._scheduler: Any = DDPMScheduler.from_config(dict(config))

    @property
    def timesteps(self) -> int:
        """Number of timesteps."""
        return int(self._scheduler.config.num_train_timesteps)

    @property
    def alphas_cumprod(self) -> Tensor:
        """abar, (timesteps,), float32, on the CPU."""
        return self._scheduler.alphas_cumprod.cpu()

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noisy latents x_t, (b, C, h, w).

        Args:
            latents: The clean latents x_0, (b, C, h, w).
            noise: Noise eps of unit variance, (b, C, h, w).
            t: Timesteps, (b,).
        """
        return self._scheduler.add_noise(latents, noise, t)

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser is trained to predict for `add_noise` of the same arguments, (b, C, h, w).

        Args:
            latents: The clean latents x_0, (b, C, h, w).
            noise: Noise eps of unit variance, (b, C, h, w).
            t: Timesteps, (b,).

        Raises:
            BadInput: The model predicts neither the noise nor the velocity.
        """
        kind = self._scheduler.config.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "v_prediction":
            return self._scheduler.get_velocity(latents, noise, t)
        raise BadInput(f"The model predicts '{kind}'; only the prediction of noise and of velocities is supported.")


Schedule = NoiseSchedule | FlowSchedule


def noise_schedule(config: Mapping[str, Any]) -> Schedule:
    """How a model adds noise in training, and what it predicts of it.

    Args:
        config: The configuration of the model's scheduler, with its `_class_name`.

    Raises:
        BadInput: The model is trained neither on a schedule of betas nor by flow matching.
    """
    if is_flow(config):
        return FlowSchedule()
    if "beta_schedule" not in config:
        raise BadInput("This model is trained neither on a schedule of betas nor by flow matching.")
    return NoiseSchedule(config)
