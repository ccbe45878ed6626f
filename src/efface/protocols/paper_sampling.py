"""How a paper sampled its images: what its protocol takes where the user does not say otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from efface.generation.jobs import Sampler, Sampling

if TYPE_CHECKING:
    from efface.models import Model
    from efface.protocols.inputs import Inputs


@dataclass(frozen=True)
class Published:
    """The setting that a protocol's numbers are published with.

    Attributes:
        sampler: As there is one here; where the paper's differs, the protocol's docstring says so.
        steps: Denoiser evaluations an image and guidance branch.
        guidance: Of all images; `None` where the paper fixes none.
        with_data: Whether it holds only where the published data are given (`--data`).
    """

    sampler: Sampler
    steps: int
    guidance: float | None = None
    with_data: bool = False

    def __str__(self) -> str:
        guidance = "" if self.guidance is None else f", guidance {self.guidance:g}"
        return f"{self.sampler}, {self.steps} steps{guidance}{', with --data' if self.with_data else ''}"


def sampling_of(published: Published | None, model: Model, inputs: Inputs | None = None) -> Sampling:
    """How images are made where the user does not say: the model's default, and over it what is published.

    Papers measure Stable Diffusion. The embedded model and families that are drawn with by their pipelines, some of
    which have no such sampler, keep their own.
    """
    own = Sampling.default(model)
    if published is None or model.name == "emoji" or model.call_parameters is not None:
        return own
    if published.with_data and (inputs is None or inputs.data is None):
        return own
    guidance = own.guidance if published.guidance is None else published.guidance
    return replace(own, sampler=published.sampler, steps=published.steps, guidance=guidance)
