"""SLD, safe latent diffusion: guidance leads away from the concept where the image approaches it.

A third branch of the batch reads the concept. With u, c and s the predictions for the empty prompt, the prompt and the
concept, element by element:

    mu    = min(1, |c - s| * guidance_scale)  where c - s < threshold, else 0
    gamma = mu (s - u) + momentum_scale nu
    nu    = mom_beta nu + (1 - mom_beta) gamma
    prediction = u + g (c - u - gamma)        from step `warmup_steps` on; before, only nu is updated

Only c is replaced, by c - gamma, so the caller's guidance works unchanged, in a pipeline or in efface's sampler. The
guard passes a batch with the third branch to the denoiser, and returns the two halves that the caller expects. The
momentum nu and the count of steps belong to one run (`efface.apply.runs`).

The prompt of the third branch is the concepts' names, joined by commas; the published prompt describes inappropriate
content in general.

Paper: https://arxiv.org/abs/2211.05105 (CVPR 2023). Reference: https://github.com/ml-research/safe-latent-diffusion.
The four presets are those of its `SafetyConfig`, also in diffusers; their warm-up counts steps of 50.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from efface.apply.guard import Call, Guard, with_concept
from efface.apply.runs import Runs
from efface.edits.kinds import GuardEdit
from efface.edits.solution import Solution
from efface.methods.base import Method
from efface.methods.closed_form.tokens import guard_tensors
from efface.models.model import Model
from efface.parsing import Schema
from efface.request.record import Request
from efface.settings import Scalar, Settings


class SldGuardSettings(Schema):
    """The settings of the guard; see `SldConfig`."""

    sld_warmup_steps: int = Field(ge=0)
    sld_guidance_scale: float = Field(gt=0)
    sld_threshold: float
    sld_momentum_scale: float = Field(ge=0, le=1)
    sld_mom_beta: float = Field(ge=0, lt=1)


class Sld(Guard):
    """The guard of safe latent diffusion.

    Its tensors are the embedded prompt `concept`, (T, d), and, if the model reads them, its attention mask, (T,), and
    `pooled`, (p,). Its settings are the five that begin with `sld_`.

    Args:
        edit: The tensors and settings.
        denoiser: The denoiser that it acts on.
    """

    remembers: ClassVar[bool] = True
    tensors: ClassVar[Mapping[str, int] | None] = {"concept": 2, "kept": 1, "pooled": 1}
    settings: ClassVar[type[Schema] | None] = SldGuardSettings

    def __init__(self, edit: GuardEdit, denoiser: nn.Module) -> None:
        self._concept = edit.values
        self._runs = Runs(lambda: SafetyGuidance(edit.settings))
        self._calls: dict[int, tuple[int, SafetyGuidance]] = {}  # images and guidance of each thread's current call
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
        self._calls.pop(threading.get_ident(), None)  # of a call that failed
        if self.strength == 0:
            return None
        call = Call(module, args, kwargs)
        half = call.rows_per_branch("sld")
        safety = self._runs.state(call.arguments["timestep"], half)
        self._calls[threading.get_ident()] = half, safety
        longer = {name: _longer(value, half) for name, value in call.arguments.items()}

        def third(text: Tensor, concept: Tensor) -> Tensor:
            return torch.cat([text[: 2 * half], concept.to(text.dtype).expand_as(text[:half])])

        return (), with_concept(longer, self._concept, third)

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        call = self._calls.pop(threading.get_ident(), None)
        if call is None:
            return None
        half, safety = call
        prediction: Tensor = output[0]
        unconditional, conditional, concept = prediction.float().split(half)
        away = safety.step(unconditional, conditional, concept)
        steered = torch.cat([unconditional, conditional - self.strength * away]).to(prediction.dtype)
        return (steered, *output[1:]) if isinstance(output, tuple) else replace(output, sample=steered)


class SafetyGuidance:
    """The guidance away from the concept over the steps of one run.

    Args:
        settings: The values of sld_guidance_scale, sld_warmup_steps, sld_threshold, sld_momentum_scale and
            sld_mom_beta.
    """

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        names = ("guidance_scale", "threshold", "momentum_scale", "mom_beta")
        self._scale, self._threshold, self._momentum, self._beta = (float(settings[f"sld_{name}"]) for name in names)
        self._warmup = int(settings["sld_warmup_steps"])
        self._steps = 0
        self._nu: Tensor | None = None

    def step(self, unconditional: Tensor, conditional: Tensor, concept: Tensor) -> Tensor:
        """Compute gamma of one step; zero during the warm-up.

        Args:
            unconditional: The prediction u for the empty prompt, (n, C, h, w).
            conditional: The prediction c for the prompt, (n, C, h, w).
            concept: The prediction s for the concept, (n, C, h, w).

        Returns:
            The guidance gamma, (n, C, h, w).
        """
        nu = torch.zeros_like(concept) if self._nu is None else self._nu
        distance = conditional - concept
        mu = (distance.abs() * self._scale).clamp(max=1.0).where(distance < self._threshold, 0.0)
        gamma = mu * (concept - unconditional) + self._momentum * nu
        self._nu = self._beta * nu + (1 - self._beta) * gamma
        self._steps += 1
        return gamma if self._steps > self._warmup else torch.zeros_like(gamma)


def _longer(value: Any, half: int) -> Any:
    """An argument of the denoiser with the second half's rows repeated, if it has 2 `half` rows."""
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
    """SLD's settings, by the reference's names; None is the value of the preset.

    Attributes:
        preset: The published preset.
        sld_warmup_steps: The number of steps before the guidance starts.
        sld_guidance_scale: The scale of the difference c - s; the larger, the sooner mu is 1.
        sld_threshold: The largest difference c - s at which the guidance acts.
        sld_momentum_scale: The weight of the momentum nu.
        sld_mom_beta: The decay of the momentum.
    """

    preset: Strength = "medium"
    sld_warmup_steps: int | None = Field(default=None, ge=0)
    sld_guidance_scale: float | None = Field(default=None, gt=0)
    sld_threshold: float | None = None
    sld_momentum_scale: float | None = Field(default=None, ge=0, le=1)
    sld_mom_beta: float | None = Field(default=None, ge=0, lt=1)


def erase(model: Model, request: Request, config: SldConfig) -> Solution:
    """Embed the concepts. Only the model's tokenizer and text encoder are used.

    Args:
        model: The model.
        request: The concepts.
        config: The settings.
    """
    embedded = model.embed([", ".join(request.names)], clip_skip=request.clip_skip)
    given = {name: value for name, value in config.model_dump(exclude={"preset"}).items() if value is not None}
    settings = {**PUBLISHED[config.preset], **given}
    edit = GuardEdit("sld", guard_tensors(model, request, embedded), settings)
    notes = {"settings": {"preset": config.preset, **settings}}
    return Solution(request, (edit,), notes=notes, embedded=embedded)


ENTRY = Method(
    name="sld",
    summary="Steers sampling away from the concept where the image approaches it; no weight changes.",
    paper="https://arxiv.org/abs/2211.05105",
    repository="https://github.com/ml-research/safe-latent-diffusion",
    edit="guard",
    config=SldConfig,
    erase=erase,
    uses_guides=False,
    uses_preserve=False,
    after=None,
)
