"""What the unedited model draws, before it is decoded: for methods and attacks that read latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from efface.generate.jobs import Job, Sampling
from efface.generate.sampling import sample_latents

if TYPE_CHECKING:
    from torch import Tensor

    from efface.methods.base import Latents
    from efface.models import Model


def latents_of(model: Model) -> Latents:
    """The function that draws one prompt's latents (n, C, h, w), one a seed, with what is on the model meanwhile."""

    def latents(
        prompt: str, seeds: Sequence[int], *, steps: int, guidance: float, sampler: Any, clip_skip: int | None = None
    ) -> Tensor:
        how = Sampling(sampler=sampler, steps=steps, guidance=guidance, clip_skip=clip_skip)
        return sample_latents(model, [Job(prompt, seed) for seed in seeds], how)

    return latents
