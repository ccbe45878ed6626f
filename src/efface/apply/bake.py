"""Edits written into weights: W (I + L R^T) in every map that reads the text, and how to undo it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from efface.edits.kinds import Edit, TextEdit, WeightEdit, hash_of
from efface.errors import BadInput, WrongBase
from efface.models.active import Active, register
from efface.models.modules import unfuse
from efface.models.placement import check_editable

if TYPE_CHECKING:
    from efface.models.model import Model


class Baked:
    """Parameters that were overwritten, with one copy of each original.

    Args:
        unregister: Called after all originals are restored.
    """

    def __init__(self, unregister: Callable[[], None] = lambda: None) -> None:
        self._originals: dict[nn.Parameter, Tensor] = {}
        self._unregister = unregister

    def __len__(self) -> int:
        return len(self._originals)

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, change: Callable[[Tensor], Tensor]) -> None:
        """Replace `parameter` by `change(parameter)`, of the same shape, and store the original.

        Raises:
            BadInput: The parameter is not in memory, or quantised.
        """
        check_editable(f"of shape {tuple(parameter.shape)}", parameter)
        if parameter not in self._originals:
            self._originals[parameter] = parameter.detach().clone()
        parameter.copy_(change(parameter.detach()))

    @torch.no_grad()
    def undo(self) -> None:
        """Restore every original bit for bit."""
        while self._originals:
            parameter, original = self._originals.popitem()
            parameter.copy_(original)
        self._unregister()


def bake_edits(edits: Sequence[Edit], model: Model) -> Baked:
    """Write text and weight edits into a model's weights.

    Raises:
        BadInput: The model has a LoRA loaded, lacks a parameter that is edited, or its weights cannot be edited.
        WrongBase: A parameter has another shape.
    """
    denoiser = model.denoiser
    if getattr(denoiser, "_hf_peft_config_loaded", False):
        raise BadInput("The model has a LoRA loaded; unload it (pipe.unload_lora_weights()) before baking an eraser.")
    unfuse(denoiser)
    baked = Baked(register(denoiser, Active(lambda: hash_of(edits), 1.0, "baked")))
    try:
        # As when attached: the text passes the first edit first, and the weights that it reaches last are edited by
        # their deltas, (W + delta) (I + D).
        write_weights(baked, model, [edit for edit in edits if isinstance(edit, WeightEdit)])
        for edit in reversed([edit for edit in edits if isinstance(edit, TextEdit)]):
            for name in model.reading(edit.stream).text_parameters():
                baked.write(denoiser.get_parameter(name), edit.on)
        if edits and not len(baked):
            raise BadInput(
                f"No weight of {model.name} reads the text as a plain parameter (quantised?); attach instead."
            )
    except BaseException:
        baked.undo()
        raise
    return baked


def write_weights(baked: Baked, model: Model, edits: Sequence[WeightEdit], strength: float = 1.0) -> None:
    """Add weight edits to the parameters that they name; several edits of one parameter are summed first.

    Args:
        baked: Stores the originals.
        model: The model to change.
        edits: The edits.
        strength: The factor of each edit.

    Raises:
        BadInput: The model has no such parameter.
        WrongBase: A parameter has another shape.
    """
    of_parameter: dict[str, list[WeightEdit]] = {}
    for edit in edits:
        of_parameter.setdefault(edit.parameter, []).append(edit)
    for name, edits_of_one in of_parameter.items():
        parameter = _parameter(model, name)
        if not all(edit.fits(parameter.shape) for edit in edits_of_one):
            raise WrongBase(f"{name} is {tuple(parameter.shape)} in the model; the eraser is for another shape.")
        baked.write(parameter, partial(summed, edits_of_one, strength=strength))


def summed(edits: Sequence[WeightEdit], weight: Tensor, strength: float = 1.0) -> Tensor:
    """A weight with all its edits, in its own dtype; the sum is computed in float32 or wider.

    Args:
        edits: The edits of this weight.
        weight: The unedited weight, of any shape, such as (d_out, d_in).
        strength: The factor of each edit.
    """
    result = weight.to(torch.promote_types(weight.dtype, torch.float32))
    for edit in edits:
        result = edit.on(result, strength)
    return result.to(weight.dtype)


def _parameter(model: Model, full_name: str) -> nn.Parameter:
    part, _, name = full_name.partition(".")
    try:
        return model.part(part).get_parameter(name)
    except AttributeError:
        raise BadInput(f"The model has no parameter {full_name}; the eraser is for another one.") from None
