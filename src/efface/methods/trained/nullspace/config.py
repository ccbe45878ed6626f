"""Settings of the null-space edit; see `nullspace`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from efface.errors import BadRequest
from efface.settings import Settings


def _numbers(value: object) -> object:
    """Layers as `1,2,3` or as one number."""
    if isinstance(value, int):
        return (value,)
    return value.split(",") if isinstance(value, str) else value


class NullspaceConfig(Settings):
    """Settings, with the reference's values.

    Attributes:
        epochs: Rounds over the layers, each with new pictures.
        lamb: Lambda, the ridge of the closed form.
        adam_steps: How long a target is optimised.
        lr: Adam's learning rate.
        threshold: The share of the mean singular value below which a direction is free.
        min_directions: How many are free at least, the smallest ones.
        layers: Those of the text encoder that are edited, counted from 0.
        first_timestep: The least noise a picture is given, in steps of training ...
        last_timestep: ... and the most.
        batch_size: Pictures a round.
        sampling_steps: Of those.
        guidance_scale: Of those.
        sampler: Of those; the reference's is lms.
        everyday: Protect the prompts of `everyday` besides the preserved ones.
        seed: Of pictures, timesteps and noise.
        shared_projector: All layers use the last one's P.
        protect_own: Protect prompts that hold the concept's words, too.
        sigma_noise: Add noise as LMS scales it, x_0 + sigma e, and do not scale the sum to unit variance.
        previous: Keep what earlier concepts of the request were given, by AlphaEdit's Kp Kp^T.
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
    protect_own: bool = False
    sigma_noise: bool = False
    previous: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> NullspaceConfig:
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise BadRequest(f"layers is {','.join(map(str, self.layers))}; name each once, in order, e.g. 1,2,3.")
        if self.first_timestep > self.last_timestep:
            raise BadRequest(f"first_timestep {self.first_timestep} is after last_timestep {self.last_timestep}.")
        return self
