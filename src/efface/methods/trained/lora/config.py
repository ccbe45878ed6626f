"""The settings of `lora`: the defaults of LECO, of concept sliders and of ESD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from torch import nn

from efface.methods.trained.lora.layers import Network, TrainingMethod, is_unet, trained_layers
from efface.methods.training.objective import TrainingConfig
from efface.request.record import Concept

Preset = Literal["leco", "slider", "esd"]
PRESETS: dict[str, dict[str, Any]] = {
    "leco": {},
    "slider": {"network": "resnet", "iterations": 1000, "lr": 2e-4, "guidance_scale": 4.0},
    "esd": {
        "network": "attention", "rank": 16, "alpha": 16.0, "weight_decay": 0.0, "iterations": 200,
        "guidance_scale": 2.0, "latents": "frozen",
    },
}  # fmt: skip
#: What a preset chooses where the setting is None: the layers of a U-Net, and the neutral prompt.
_TRAINED_IN_UNET: dict[str, TrainingMethod] = {"leco": "full", "slider": "noxattn", "esd": "xattn"}
_NEUTRAL = {"leco": "", "slider": "{target}", "esd": "{target}"}


@dataclass(frozen=True)
class Prompts:
    """The prompts of one training sample.

    Attributes:
        target: What the edited model reads.
        positive: What the edit removes or strengthens.
        unconditional: Its opposite, or the empty prompt.
        neutral: What the edited model should draw instead.
    """

    target: str
    positive: str
    unconditional: str
    neutral: str


class LoraConfig(TrainingConfig):
    """The settings of `lora`, by the names of LECO and of the sliders. Each value of a preset can be overridden.

    In prompts, {} is the concept's name and {target} the prompt `target`.

    Attributes:
        preset: The published defaults: those of LECO, of concept sliders, or of the ESD script of 2025.
        network: The layers that get a LoRA: those of the attentions, of the transformer blocks, or of the attentions
            and of the residual blocks between them.
        training_method: Which of these layers; None is all of them for LECO, noxattn for a slider and xattn for ESD,
            and in a transformer always all.
        rank: The rank of each LoRA.
        alpha: The scale of a LoRA times its rank.
        iterations: The number of steps of AdamW.
        lr: AdamW's learning rate.
        weight_decay: AdamW's weight decay.
        batch_size: The samples of one forward pass.
        action: Whether the edit removes the positive prompt (erase) or strengthens it (enhance).
        guidance_scale: The guidance scale of the target, the factor of positive - unconditional.
        target: The prompt that the edited model reads.
        positive: The prompt that the edit removes or strengthens; None is the target.
        unconditional: The opposite of the positive prompt, and the negative prompt of the trajectories.
        neutral: The start of the target; None is the concept's guide, or else the empty prompt for LECO, and the
            prompt `target` for a slider and ESD.
        attributes: Prompts, separated by commas, that are put before all four prompts, one at a time and at random.
            What they describe is preserved.
        max_denoising_steps: The number of steps of a full trajectory.
        start_guidance: The guidance scale of the trajectories.
        latents: The model of the trajectories. Those of the edited model are sampled again when all their points are
            used.
        reuse: The largest number of points of a trajectory to train on. 1 is the published procedure, a new trajectory
            for each step.
        resolution: The image size in pixels; None is the default size of the model.
    """

    preset: Annotated[Preset, BeforeValidator(str)] = "leco"
    network: Network = "transformer"
    training_method: TrainingMethod | None = None
    rank: int = Field(default=4, ge=1)
    alpha: float = Field(default=1.0, gt=0)
    iterations: int = Field(default=500, ge=1)
    lr: float = Field(default=1e-4, gt=0, lt=1e38)
    weight_decay: float = Field(default=0.01, ge=0, lt=1e38)
    batch_size: int = Field(default=1, ge=1)
    action: Literal["erase", "enhance"] = "erase"
    guidance_scale: float = 1.0
    target: str = "{}"
    positive: str | None = None
    unconditional: str = ""
    neutral: str | None = None
    attributes: str | None = None
    max_denoising_steps: int = Field(default=50, ge=1, le=1000)
    start_guidance: float = Field(default=3.0, ge=0)
    latents: Literal["edited", "frozen"] = "edited"
    reuse: int = Field(default=25, ge=1)
    resolution: int | None = Field(default=None, ge=8)

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**PRESETS.get(str(values.get("preset", "leco")), {}), **values}

    def layers(self, denoiser: nn.Module) -> tuple[str, ...]:
        """The names of the layers of a denoiser that get a LoRA."""
        default = _TRAINED_IN_UNET[self.preset] if is_unet(denoiser) else "full"
        return trained_layers(denoiser, self.network, self.training_method or default)

    def prompts(self, concept: Concept) -> tuple[Prompts, ...]:
        """The prompts of a concept: one set, or one for each attribute."""
        target = self.target.replace("{}", concept.name)

        def filled(prompt: str) -> str:
            return prompt.replace("{target}", target).replace("{}", concept.name)

        neutral = concept.guide if self.neutral is None else filled(self.neutral)
        roles = (
            target,
            target if self.positive is None else filled(self.positive),
            filled(self.unconditional),
            filled(_NEUTRAL[self.preset]) if neutral is None else neutral,
        )
        attributes = [word.strip() for word in (self.attributes or "").split(",") if word.strip()] or [""]
        return tuple(Prompts(*(f"{attribute} {role}".strip() for role in roles)) for attribute in attributes)
