"""Writing an eraser into weights: W (I + L R^T) in every map that reads the text, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efface.base_check import check_base
from efface.edits import TextEdit, WeightEdit
from efface.errors import BadInput, WrongBase
from efface.models import Model, open_model

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.eraser import Eraser


class Baked:
    """Parameters that were written over, with their originals."""

    def __init__(self) -> None:
        self._originals: list[tuple[nn.Parameter, Tensor]] = []

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, change: Callable[[Tensor], Tensor]) -> None:
        """Replace `parameter` by `change(parameter)`, keeping what it was."""
        self._originals.append((parameter, parameter.detach().clone()))
        parameter.copy_(change(parameter.detach()))

    @torch.no_grad()
    def undo(self) -> None:
        """Put every original back, bit for bit."""
        while self._originals:
            parameter, original = self._originals.pop()
            parameter.copy_(original)


def bake(eraser: Eraser, target: Model | DiffusionPipeline, force: bool = False) -> Baked:
    """Write all of an eraser's edits into a model's weights."""
    if eraser.kind_of_edit == "guard":
        raise BadInput(f"{eraser.method} acts while the model runs and is in no weight; attach the eraser instead.")
    model = target if isinstance(target, Model) else open_model(target)
    check_base(eraser, model, force)
    denoiser = model.denoiser
    if getattr(denoiser, "_hf_peft_config_loaded", False):
        raise BadInput("The model has a LoRA loaded; unload it (pipe.unload_lora_weights()) before baking an eraser.")
    if getattr(denoiser, "original_attn_processors", None) is not None:
        # Fused projections are copies that would go on reading the text with the old weights.
        denoiser.unfuse_qkv_projections()
    baked = Baked()
    try:
        for edit in eraser.edits:
            if isinstance(edit, TextEdit):
                for name in model.text_parameters():
                    baked.write(denoiser.get_parameter(name), edit.on)
            elif isinstance(edit, WeightEdit):
                write_weight(baked, model, edit)
    except BaseException:
        baked.undo()
        raise
    return baked


def write_weight(baked: Baked, model: Model, edit: WeightEdit, strength: float = 1.0) -> None:
    """Add one weight edit, `strength` times, to the parameter it names."""
    part, _, name = edit.parameter.partition(".")
    module: Any = getattr(model, part)
    try:
        parameter: nn.Parameter = module.get_parameter(name)
    except AttributeError:
        raise BadInput(f"The model has no parameter {edit.parameter}; the eraser is for another one.") from None
    if not edit.fits(parameter.shape):
        raise WrongBase(f"{edit.parameter} is {tuple(parameter.shape)} in the model; the eraser is for another shape.")
    baked.write(parameter, lambda weight: edit.on(weight, strength))
