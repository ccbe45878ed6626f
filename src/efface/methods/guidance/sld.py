"""SLD, safe latent diffusion: while sampling, guidance leads away from the concepts wherever the image nears them.

The equations are below. The concepts' names, joined by commas, are the
prompt of the third branch; the published one describes inappropriate content in general.

Paper: https://arxiv.org/abs/2211.05105 (CVPR 2023). Reference: https://github.com/ml-research/safe-latent-diffusion;
the four strengths are those of its `SafetyConfig`, also in diffusers. Its warm-up counts steps of 50.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from efface.apply.guard import Call, Guard, with_concept
from efface.edits.kinds import GuardEdit
from efface.edits.solution import Solution
from efface.methods.base import Method
from efface.methods.closed_form.tokens import guard_tensors
from efface.models.model import Model
from efface.request.record import Request
from efface.settings import Scalar, Settings

# Safe latent guidance: a third branch reads the concept, and guidance leads away from it where the image nears it.
#
# With u, c and s the predictions for the empty prompt, the prompt and the concept, element by element:
#
#     mu    = min(1, |c - s| * guidance_scale)  where c - s < threshold, else 0
#     gamma = mu (s - u) + momentum_scale nu
#     nu    = mom_beta nu + (1 - mom_beta) gamma
#     prediction = u + g (c - u - gamma)        from step `warmup_steps` on; before, only nu is kept up
#
# Only c - gamma takes the place of c, so whoever guides, a pipeline or efface's sampler, does it unchanged: the guard
# hands the denoiser a batch longer by the third branch, and gives back the two halves that are waited for. A run
# starts
# anew with a timestep that is not below the run's first.


class Sld(Guard):
    """Its tensors: `concept` (T, d), and where they are read too, `kept` (T,), its attention mask, and `pooled` (p,).
    Its settings: the five `sld_` ones."""

    remembers: ClassVar[bool] = True

    def __init__(self, edit: GuardEdit, denoiser: nn.Module) -> None:
        self._concept = edit.values
        self._safety = Safety(edit.settings)
        self._half = 0
        self._first: float | None = None
        self._handles = [
            denoiser.register_forward_pre_hook(self._before, with_kwargs=True),
            denoiser.register_forward_hook(self._after),
        ]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._half = 0
        if self.strength == 0:
            return None
        call = Call(module, args, kwargs)
        half = call.rows_per_branch("sld")
        now = float(torch.as_tensor(call.arguments["timestep"]).flatten()[0])
        if self._first is None or now >= self._first or not self._safety.fits(half):
            self._first = now
            self._safety.start()
        self._half = half
        longer = {name: _longer(value, half) for name, value in call.arguments.items()}

        def third(text: Tensor, concept: Tensor) -> Tensor:
            return torch.cat([text[: 2 * half], concept.to(text.dtype).expand_as(text[:half])])

        return (), with_concept(longer, self._concept, third)

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not self._half:
            return None
        prediction: Tensor = output[0]
        unconditional, conditional, concept = prediction.float().split(self._half)
        away = self._safety.step(unconditional, conditional, concept)
        steered = torch.cat([unconditional, conditional - self.strength * away]).to(prediction.dtype)
        return (steered, *output[1:]) if isinstance(output, tuple) else replace(output, sample=steered)


class Safety:
    """The guidance away from the concept over the steps of one run.

    Args:
        settings: Sld_guidance_scale, sld_warmup_steps, sld_threshold, sld_momentum_scale and sld_mom_beta.
    """

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        names = ("guidance_scale", "threshold", "momentum_scale", "mom_beta")
        self._scale, self._threshold, self._momentum, self._beta = (float(settings[f"sld_{name}"]) for name in names)
        self._warmup = int(settings["sld_warmup_steps"])
        self.start()

    def start(self) -> None:
        """Begin a run."""
        self._steps = 0
        self._nu: Tensor | None = None

    def fits(self, count: int) -> bool:
        """Whether the run that is under way has `count` images."""
        return self._nu is None or len(self._nu) == count

    def step(self, unconditional: Tensor, conditional: Tensor, concept: Tensor) -> Tensor:
        """gamma of one step, of the shape of each prediction; zero while warming up."""
        nu = torch.zeros_like(concept) if self._nu is None else self._nu
        distance = conditional - concept
        mu = (distance.abs() * self._scale).clamp(max=1.0).where(distance < self._threshold, 0.0)
        gamma = mu * (concept - unconditional) + self._momentum * nu
        self._nu = self._beta * nu + (1 - self._beta) * gamma
        self._steps += 1
        return gamma if self._steps > self._warmup else torch.zeros_like(gamma)


def _longer(value: Any, half: int) -> Any:
    """What has a row for each of 2 `half` images, with the second half's rows once more."""
    if isinstance(value, Tensor):
        return torch.cat([value, value[half:]]) if value.ndim and len(value) == 2 * half else value
    if isinstance(value, Mapping):
        return {name: _longer(item, half) for name, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_longer(item, half) for item in cast("list[Any]", value))
    return value


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
        preset: One of the four published strengths.
        sld_warmup_steps: Steps before it acts.
        sld_guidance_scale: How soon it acts in full.
        sld_threshold: How far from the concept it still acts.
        sld_momentum_scale: How much of the last steps' direction is added.
        sld_mom_beta: How long that direction lasts.
    """

    preset: Strength = "medium"
    sld_warmup_steps: int | None = Field(default=None, ge=0)
    sld_guidance_scale: float | None = Field(default=None, gt=0)
    sld_threshold: float | None = None
    sld_momentum_scale: float | None = Field(default=None, ge=0, le=1)
    sld_mom_beta: float | None = Field(default=None, ge=0, lt=1)


def erase(model: Model, request: Request, config: SldConfig) -> Solution:
    """Embed the concepts; of the model, only the tokenizer and the text encoder are used."""
    embedded = model.embed([", ".join(request.names)], clip_skip=request.clip_skip)
    given = {name: value for name, value in config.model_dump(exclude={"preset"}).items() if value is not None}
    settings = {**PUBLISHED[config.preset], **given}
    edit = GuardEdit("sld", guard_tensors(model, request, embedded), settings)
    notes = {"settings": {"preset": config.preset, **settings}}
    return Solution(request, (edit,), notes=notes, embedded=embedded)


ENTRY = Method(
    name="sld",
    summary="Safe latent guidance: steers sampling away from the concept where the image nears it; no weight changes.",
    paper="https://arxiv.org/abs/2211.05105",
    repository="https://github.com/ml-research/safe-latent-diffusion",
    edit="guard",
    config=SldConfig,
    erase=erase,
    uses_guides=False,
    uses_preserve=False,
)
