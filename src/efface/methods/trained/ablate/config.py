"""Settings of concept ablation; see `ablate`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from efface.errors import BadRequest
from efface.methods.trained.ablate.weights import ParameterGroup
from efface.methods.training.objective import TrainingConfig
from efface.request.record import Kind


@dataclass(frozen=True)
class Chosen:
    """What depends on the kind of a concept while it is not set; see `AblateConfig`."""

    parameter_group: ParameterGroup
    train_max_steps: int
    base_lr: float
    batch_size: int
    regularization: bool
    aug: bool


PUBLISHED: dict[Kind, Chosen] = {
    "object": Chosen("cross-attn", 100, 2e-6, batch_size=4, regularization=False, aug=True),
    "style": Chosen("cross-attn", 100, 2e-6, batch_size=4, regularization=False, aug=False),
    "memorised": Chosen("full-weight", 400, 5e-7, batch_size=2, regularization=True, aug=False),
    # Published as 4e-6, which the diffusers code doubles where it trains on the prior too.
    "unsafe": Chosen("attn", 400, 8e-6, batch_size=4, regularization=True, aug=False),
}


def _group(value: Any) -> Any:
    """Papers say `full` for what the references' option is called `full-weight`."""
    return "full-weight" if value == "full" else value


class AblateConfig(TrainingConfig):
    """Settings, by the references' names and with their values.

    Attributes:
        parameter_group: Which parameters are trained; None is `full-weight` for a memorised picture, `attn` for an
            unsafe theme, else `cross-attn`. `full` is another word for `full-weight`. `embedding` is the rows of the
            text encoder's table of tokens that spell the concept.
        loss_type_reverse: The target is the model's own prediction for the anchor, or the noise.
        teacher: Whose prediction that is: the model's as it is by now, as published, or the base's.
        train_max_steps: Steps of AdamW; None is 400 for a memorised picture and an unsafe theme, else 100.
        base_lr: Its learning rate for one sample; None is 5e-7 for a memorised picture, 8e-6 for an unsafe theme, else
            2e-6.
        scale_lr: Multiply that by the samples of a step. The published runs have two processes of 4 samples (of 2 for
            a memorised picture).
        batch_size: Samples of one forward pass; None is 2 for a memorised picture, else 4.
        max_grad_norm: The norm that gradients are cut to.
        regularization: Keep what the anchor prompts draw, by the loss that the model was trained with; None does for a
            memorised picture and an unsafe theme.
        prior_loss_weight: Of that; 1 as in the diffusers code. The CompVis code's 0.2 is 0.8 here.
        train_size: Anchor pictures; no more are drawn than are trained on.
        aug: Shrink and enlarge them; None does for objects.
        hflip: Mirror every other one.
        prompts: A file of anchor prompts, one a line, or a CSV with a column `prompt`; with `datapath`, one for each
            picture.
        prompt_gen_model: Folder or hub id of a causal language model that writes them.
        num_class_prompts: How many it writes.
        datapath: A folder of anchor pictures, with their prompts in `metadata.jsonl`, to take instead of drawing.
        mem_impath: The memorised picture.
        sampling_steps: Of the anchor pictures.
        guidance_scale: Of those.
        sampler: Of those.
    """

    parameter_group: Annotated[ParameterGroup | None, BeforeValidator(_group)] = None
    loss_type_reverse: Literal["model-based", "noise-based"] = "model-based"
    teacher: Literal["current", "frozen"] = "current"
    train_max_steps: int | None = Field(default=None, ge=1)
    base_lr: float | None = Field(default=None, gt=0, lt=1e38)
    scale_lr: bool = True
    batch_size: int | None = Field(default=None, ge=1)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    regularization: bool | None = None
    prior_loss_weight: float = Field(default=1.0, ge=0)
    train_size: int = Field(default=1000, ge=1)
    aug: bool | None = None
    hflip: bool = True
    prompts: str | None = None
    prompt_gen_model: str | None = None
    num_class_prompts: int = Field(default=200, ge=1)
    datapath: str | None = None
    mem_impath: str | None = None
    sampling_steps: int = Field(default=25, ge=1)
    guidance_scale: float = Field(default=6.0, ge=0)
    sampler: str = "dpm++"

    @model_validator(mode="after")
    def _of_one_mind(self) -> AblateConfig:
        if self.prompt_gen_model and (self.prompts or self.datapath):
            other = "prompts" if self.prompts else "datapath"
            raise BadRequest(f"Anchor prompts come from prompt_gen_model or from {other}; give one of them.")
        return self

    def chosen(self, kind: Kind) -> Chosen:
        """The settings that a concept of this kind is ablated with."""
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Chosen)}
        return replace(PUBLISHED[kind], **{name: value for name, value in given.items() if value is not None})
