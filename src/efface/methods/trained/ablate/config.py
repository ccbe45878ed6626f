"""Settings of concept ablation; see `method`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from efface.errors import BadRequest
from efface.methods.trained.ablate.weights import ParameterGroup
from efface.methods.training.objective import TrainingConfig
from efface.request.record import Kind


@dataclass(frozen=True)
class KindDefaults:
    """The settings whose defaults depend on the kind of a concept; see `AblateConfig`.

    Attributes:
        parameter_group: The parameters to train.
        train_max_steps: The number of steps.
        base_lr: The learning rate per sample.
        batch_size: The samples of one forward pass.
        regularization: Whether the loss includes the prior term.
        aug: Whether images are shrunk and enlarged.
    """

    parameter_group: ParameterGroup
    train_max_steps: int
    base_lr: float
    batch_size: int
    regularization: bool
    aug: bool


PUBLISHED: dict[Kind, KindDefaults] = {
    "object": KindDefaults("cross-attn", 100, 2e-6, batch_size=4, regularization=False, aug=True),
    "style": KindDefaults("cross-attn", 100, 2e-6, batch_size=4, regularization=False, aug=False),
    "memorised": KindDefaults("full-weight", 400, 5e-7, batch_size=2, regularization=True, aug=False),
    # Published as 4e-6, which the diffusers code doubles if the loss includes the prior term.
    "unsafe": KindDefaults("attn", 400, 8e-6, batch_size=4, regularization=True, aug=False),
}


def _group(value: Any) -> Any:
    """`full` of the papers as `full-weight`, the name of the references' option."""
    return "full-weight" if value == "full" else value


class AblateConfig(TrainingConfig):
    """Settings of concept ablation, by the references' names and with their values.

    Attributes:
        parameter_group: The parameters to train; None is `full-weight` for a memorised image, `attn` for an unsafe
            theme, else `cross-attn`. `full` is a synonym of `full-weight`. `embedding` is the rows of the concept's
            tokens in the text encoder's embedding table.
        loss_type_reverse: The target: the model's prediction for the anchor (`model-based`), or the noise
            (`noise-based`).
        teacher: The model of that prediction: the model in training (`current`), as published, or the base (`frozen`).
        train_max_steps: The number of steps of AdamW; None is 400 for a memorised image and an unsafe theme, else 100.
        base_lr: The learning rate per sample; None is 5e-7 for a memorised image, 8e-6 for an unsafe theme, else 2e-6.
        scale_lr: Whether to multiply the learning rate by the samples of a step. The published runs have two processes
            of 4 samples (of 2 for a memorised image).
        batch_size: The samples of one forward pass; None is 2 for a memorised image, else 4.
        max_grad_norm: The largest norm of the gradients.
        regularization: Whether the loss includes a prior term, the original training loss on anchor images; None is
            true for a memorised image and an unsafe theme.
        prior_loss_weight: The weight of the prior term; 1 as in the diffusers code. 0.2 in the CompVis code is 0.8
            here.
        train_size: The number of anchor images. Only images that are trained on are generated.
        aug: Whether to shrink and enlarge the images; None is true for objects.
        hflip: Whether to mirror images at random.
        prompts: A file of anchor prompts, one per line, or a CSV with a column `prompt`; with `datapath`, one for each
            image.
        prompt_gen_model: The folder or hub id of a causal language model that writes anchor prompts.
        num_class_prompts: The number of prompts that it writes.
        datapath: A folder of anchor images, with their prompts in `metadata.jsonl`, to use instead of generated ones.
        mem_impath: The file of the memorised image.
        resume_from_checkpoint_custom: A file to start from, in place of the base: an ablated checkpoint, a delta, or an
            eraser, which changes only parameters that are trained. Its change is a part of the new eraser.
        sampling_steps: The sampling steps of the anchor images.
        guidance_scale: The guidance scale of the anchor images.
        sampler: The sampler of the anchor images.
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
    resume_from_checkpoint_custom: str | None = None
    sampling_steps: int = Field(default=25, ge=1)
    guidance_scale: float = Field(default=6.0, ge=0)
    sampler: str = "dpm++"

    @model_validator(mode="after")
    def _check_sources(self) -> AblateConfig:
        if self.prompt_gen_model and (self.prompts or self.datapath):
            other = "prompts" if self.prompts else "datapath"
            raise BadRequest(f"Anchor prompts come from prompt_gen_model or from {other}; give only one of them.")
        return self

    def chosen(self, kind: Kind) -> KindDefaults:
        """The settings for a concept of a kind."""
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(KindDefaults)}
        return replace(PUBLISHED[kind], **{name: value for name, value in given.items() if value is not None})
