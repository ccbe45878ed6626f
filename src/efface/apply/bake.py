"""Writing an eraser into weights: W (I + L R^T) in every map that reads the text, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from efface.edits.kinds import TextEdit, WeightEdit
from efface.eraser.base import check_base
from efface.errors import BadInput, WrongBase
from efface.models import Model, open_model
from efface.models.active import Change, record
from efface.models.modules import unfuse

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.eraser.eraser import Eraser


class Baked:
    """Parameters that were written over, with their originals: one copy each, however often they were.

    Args:
        strike: called when all are back.
    """

    def __init__(self, strike: Callable[[], None] = lambda: None) -> None:
        self._originals: dict[nn.Parameter, Tensor] = {}
        self._strike = strike

    def __len__(self) -> int:
        return len(self._originals)

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, change: Callable[[Tensor], Tensor]) -> None:
        """Replace `parameter` by `change(parameter)`, keeping what it was."""
        if parameter not in self._originals:
            self._originals[parameter] = parameter.detach().clone()
        parameter.copy_(change(parameter.detach()))

    @torch.no_grad()
    def undo(self) -> None:
        """Put every original back, bit for bit."""
        while self._originals:
            parameter, original = self._originals.popitem()
            parameter.copy_(original)
        self._strike()


def bake(eraser: Eraser, target: Model | DiffusionPipeline, force: bool = False) -> Baked:
    """Write all of an eraser's edits into a model's weights."""
    if eraser.kind_of_edit == "guard":
        raise BadInput(f"{eraser.method} acts while the model runs and is in no weight; attach the eraser instead.")
    model = target if isinstance(target, Model) else open_model(target)
    check_base(eraser, model, force)
    denoiser = model.denoiser
    if getattr(denoiser, "_hf_peft_config_loaded", False):
        raise BadInput("The model has a LoRA loaded; unload it (pipe.unload_lora_weights()) before baking an eraser.")
    unfuse(denoiser)
    baked = Baked(record(denoiser, Change((eraser,), 1.0, "baked")))
    try:
        # As attached: the text passes the first edit first, and last what the weights were made, (W + delta) (I + D).
        write_weights(baked, model, [edit for edit in eraser.edits if isinstance(edit, WeightEdit)])
        for edit in reversed([edit for edit in eraser.edits if isinstance(edit, TextEdit)]):
            for name in model.reading(edit.stream).text_parameters():
                baked.write(denoiser.get_parameter(name), edit.on)
    except BaseException:
        baked.undo()
        raise
    return baked


def write_weights(baked: Baked, model: Model, edits: Sequence[WeightEdit], strength: float = 1.0) -> None:
    """Add weight edits, `strength` times, to the parameters they name; several of one are summed before they are added.

    Raises:
        BadInput: the model has no such parameter, or one of another shape.
    """
    of_parameter: dict[str, list[WeightEdit]] = {}
    for edit in edits:
        of_parameter.setdefault(edit.parameter, []).append(edit)
    for name, together in of_parameter.items():
        parameter = _parameter(model, name)
        if not all(edit.fits(parameter.shape) for edit in together):
            raise WrongBase(f"{name} is {tuple(parameter.shape)} in the model; the eraser is for another shape.")
        baked.write(parameter, partial(summed, together, strength=strength))


def summed(edits: Sequence[WeightEdit], weight: Tensor, strength: float = 1.0) -> Tensor:
    """A weight with all its edits, in its own type; summed in float32 or wider."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    for edit in edits:
        wide = edit.on(wide, strength)
    return wide.to(weight.dtype)


def _parameter(model: Model, full_name: str) -> nn.Parameter:
    part, _, name = full_name.partition(".")
    try:
        return model.part(part).get_parameter(name)
    except AttributeError:
        raise BadInput(f"The model has no parameter {full_name}; the eraser is for another one.") from None
