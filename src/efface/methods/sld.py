"""SLD, safe latent diffusion: while sampling, guidance leads away from the concepts wherever the image nears them.

See `efface.guards.sld` for the equations, and for where they cannot be. The concepts' names, joined by commas, are the
prompt of the third branch; the published one describes inappropriate content in general.

Paper: https://arxiv.org/abs/2211.05105 (CVPR 2023). Reference: https://github.com/ml-research/safe-latent-diffusion;
the four strengths are those of its `SafetyConfig`, also in diffusers. Its warm-up counts steps of 50.
"""

from __future__ import annotations

import time
from typing import Literal

from pydantic import Field

from efface.edits import ValueGuard
from efface.eraser import Eraser
from efface.methods.base import Method
from efface.methods.tokens import base_of, needs_no_guide, only_erases, preserves_nothing, provenance, told
from efface.models.base import Model
from efface.request import Request
from efface.settings import Scalar, Settings

Strength = Literal["weak", "medium", "strong", "max"]
_NAMES = ("sld_warmup_steps", "sld_guidance_scale", "sld_threshold", "sld_momentum_scale", "sld_mom_beta")
PUBLISHED: dict[Strength, dict[str, Scalar]] = {
    "weak": dict(zip(_NAMES, (15, 20.0, 0.0, 0.0, 0.0), strict=True)),
    "medium": dict(zip(_NAMES, (10, 1000.0, 0.01, 0.3, 0.4), strict=True)),
    "strong": dict(zip(_NAMES, (7, 2000.0, 0.025, 0.5, 0.7), strict=True)),
    "max": dict(zip(_NAMES, (0, 5000.0, 1.0, 0.5, 0.7), strict=True)),
}


class SldConfig(Settings):
    """SLD's settings, by the reference's names; None takes the published strength's.

    Attributes:
        preset: one of the four published strengths.
        sld_warmup_steps: steps before it acts.
        sld_guidance_scale: how soon it acts in full.
        sld_threshold: how far from the concept it still acts.
        sld_momentum_scale: how much of the last steps' direction is added.
        sld_mom_beta: how long that direction lasts.
    """

    preset: Strength = "medium"
    sld_warmup_steps: int | None = Field(default=None, ge=0)
    sld_guidance_scale: float | None = Field(default=None, gt=0)
    sld_threshold: float | None = None
    sld_momentum_scale: float | None = Field(default=None, ge=0, le=1)
    sld_mom_beta: float | None = Field(default=None, ge=0, lt=1)


def erase(model: Model, request: Request, config: SldConfig) -> Eraser:
    """Embed the concepts; of the model, only the tokenizer and the text encoder are used."""
    only_erases(request)
    needs_no_guide(request)
    preserves_nothing(request)
    started = time.perf_counter()
    embedded = model.embed([", ".join(request.names)], clip_skip=request.clip_skip)
    given = {name: value for name, value in config.model_dump(exclude={"preset"}).items() if value is not None}
    settings = {**PUBLISHED[config.preset], **given}
    part = ValueGuard("sld", told(model, request, embedded), settings)
    made = provenance({"preset": config.preset, **settings}, started, time.perf_counter())
    return Eraser(request, (part,), base_of(model, embedded), {}, made)


METHOD = Method(
    name="sld",
    summary="Safe latent guidance: steers sampling away from the concept where the image nears it; no weight changes.",
    paper="https://arxiv.org/abs/2211.05105",
    repository="https://github.com/ml-research/safe-latent-diffusion",
    edit="guard",
    config=SldConfig,
    erase=erase,
)
