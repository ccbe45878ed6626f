"""Settings of the null-space edit; see `method`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from efface.errors import BadRequest
from efface.settings import Settings


def _numbers(value: object) -> object:
    """Layers as `1,2,3` or as one number."""
    if isinstance(value, int):
        return (value,)
    return value.split(",") if isinstance(value, str) else value


class NullspaceConfig(Settings):
    """Settings of the null-space edit, with the reference's values.

    Attributes:
        epochs: The number of rounds over the layers, each with new images.
        lamb: The ridge of the closed form.
        adam_steps: The number of steps of Adam for a target.
        lr: Adam's learning rate.
        threshold: The share of the mean singular value below which a direction is free.
        min_directions: The least number of free directions, those with the smallest singular values.
        layers: The layers of the text encoder to edit, counted from 0.
        first_timestep: The smallest timestep at which noise is added to an image.
        last_timestep: The largest timestep at which noise is added to an image.
        batch_size: The number of images of a round.
        sampling_steps: The sampling steps of an image.
        guidance_scale: The guidance scale of an image.
        sampler: The sampler of an image; the reference's is lms.
        everyday: Whether to protect the prompts of `everyday` besides the preserved ones.
        seed: The seed of images, timesteps and noise.
        shared_projector: Whether all layers use the projector P of the last one.
        sentences: Whether to edit the concept and its aliases in sentences, each with the guide in the same sentence,
            and not the bare concept alone.
        target: What a target optimises: `denoiser`, the denoiser's prediction for noisy images of the concept; or
            `text`, the text embedding itself, without images.
        protect_own: Whether to protect prompts that contain the concept's words, too.
        sigma_noise: Whether to add noise on the scale of LMS, x_0 + sigma e, without scaling the sum to unit variance.
        previous: Whether to preserve the edits of earlier concepts of the request, by AlphaEdit's term Kp Kp^T.
    """

    epochs: int = Field(default=10, ge=1)
    lamb: float = Field(default=200.0, gt=0)
    adam_steps: int = Field(default=6, ge=1)
    lr: float = Field(default=0.2, gt=0)
    threshold: float = Field(default=1 / 90000, ge=0)
    min_directions: int = Field(default=100, ge=1)
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_numbers)] = (1, 2, 3)
    first_timestep: int = Field(default=10, ge=0, lt=1000)
    last_timestep: int = Field(default=50, ge=0, lt=1000)
    batch_size: int = Field(default=8, ge=1)
    sampling_steps: int = Field(default=10, ge=1)
    guidance_scale: float = Field(default=7.5, ge=0)
    sampler: str = "dpm++"
    everyday: bool = True
    seed: int = Field(default=0, ge=0, lt=2**31)
    shared_projector: bool = False
    sentences: bool = False
    target: Literal["denoiser", "text"] = "denoiser"
    protect_own: bool = False
    sigma_noise: bool = False
    previous: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> NullspaceConfig:
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise BadRequest(
                f"layers is {','.join(map(str, self.layers))}; give each layer once, in order, e.g. 1,2,3."
            )
        if self.first_timestep > self.last_timestep:
            raise BadRequest(f"first_timestep {self.first_timestep} is after last_timestep {self.last_timestep}.")
        return self
