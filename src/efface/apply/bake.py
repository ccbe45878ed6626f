"""Edits written into weights: W (I + L R^T) in every map that reads the text, and how to undo it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from efface.edits.kinds import Edit, TextEdit, WeightEdit, hash_of
from efface.errors import BadInput, WrongBase
from efface.models.active import Active, register
from efface.models.modules import plain, unfuse
from efface.models.placement import check_editable

if TYPE_CHECKING:
    from efface.models.model import Model


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Change: TypeAlias = Callable[[Tensor], Tensor]


class Baked:
    """Parameters that were overwritten, with one copy of each original.

    Args:
        unregister: Called after all originals are restored.
    """

    def __init__(self, unregister: Callable[[], None] = lambda: None) -> None:
        self._originals: dict[nn.Parameter, Tensor] = {}
        self._networks: dict[nn.Parameter, nn.Module] = {}
        self._changes: dict[nn.Parameter, list[Change]] = {}
        self._written: dict[nn.Parameter, tuple[int, ...]] = {}
        self._unregister = unregister

    def __len__(self) -> int:
        return len(self._originals)

    @torch.no_grad()
    def write(self, network: nn.Module, parameter: nn.Parameter, change: Change) -> None:
        """Replace an editable parameter by `change(parameter)`, of the same shape, and store the original.

        Args:
            network: The network that has it.
            parameter: The parameter, of any shape.
            change: The change.
        """
        if parameter not in self._originals:
            self._originals[parameter] = parameter.detach().clone()
            self._networks[parameter] = network
        parameter.copy_(change(parameter.detach()))
        self._changes.setdefault(parameter, []).append(change)
        self._written[parameter] = _fingerprint(parameter)

    def check(self) -> None:
        """Check that no other code has changed or replaced the weights since they were written.

        Raises:
            BadInput: It has changed them, such as a LoRA that was fused or another eraser, so that restoring would
                remove that change; or it has replaced them, such as a quantisation, so that they cannot be restored.
        """
        networks = {id(network): network for network in self._networks.values()}.values()
        live = {id(parameter) for network in networks for parameter in plain(network).parameters()}
        if replaced := sum(id(parameter) not in live for parameter in self._originals):
            raise BadInput(
                f"Other code has replaced {replaced} of the weights that the eraser edits (quantised, offloaded or "
                "loaded anew), so that they cannot be restored; load the model again, or pass force=True to leave them "
                "as they are."
            )
        if changed := [parameter for parameter in self._originals if not self._is_as_written(parameter)]:
            raise BadInput(
                f"Other code (a fused LoRA, another eraser) has changed {len(changed)} of the weights that the eraser "
                f"edits, the first of shape {tuple(changed[0].shape)}; undo that change first, or pass force=True to "
                "discard it."
            )

    @torch.no_grad()
    def _is_as_written(self, parameter: nn.Parameter) -> bool:
        original = self._originals[parameter]
        if parameter.dtype == original.dtype:
            return _fingerprint(parameter) == self._written[parameter]
        weight = original
        for change in self._changes[parameter]:
            weight = change(weight).to(original.dtype)
        return _fingerprint(parameter) in ((), _fingerprint(weight.to(parameter.dtype)))

    @torch.no_grad()
    def undo(self, force: bool = False) -> None:
        """Restore every original bit for bit.

        Args:
            force: Discard changes that other code has made to these weights since, and leave weights that it has
                replaced.

        Raises:
            BadInput: Other code has changed or replaced the weights; nothing is restored.
        """
        if not force:
            self.check()
        while self._originals:
            parameter, original = self._originals.popitem()
            parameter.copy_(original)
        for of_parameter in (self._written, self._changes, self._networks):
            of_parameter.clear()
        self._unregister()


def _fingerprint(weight: Tensor) -> tuple[int, ...]:
    """Numbers that change with the bits of a weight, at the speed of reading it."""
    if weight.is_meta:  # offloaded since; its values cannot be compared
        return ()
    bits = weight.detach().contiguous().flatten().view(_BITS[weight.element_size()])
    return int(bits.sum(dtype=torch.int64)), int(bits[::3].sum(dtype=torch.int64))


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
                parameter = denoiser.get_parameter(name)
                check_editable(f"denoiser.{name}", parameter)
                baked.write(denoiser, parameter, edit.on)
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
        network, parameter = _parameter(model, name)
        check_editable(name, parameter)  # before the shape, which is another if bits are packed
        if not all(edit.fits(parameter.shape) for edit in edits_of_one):
            raise WrongBase(f"{name} is {tuple(parameter.shape)} in the model; the eraser is for another shape.")
        baked.write(network, parameter, partial(summed, edits_of_one, strength=strength))


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


def _parameter(model: Model, full_name: str) -> tuple[nn.Module, nn.Parameter]:
    """A parameter by its full name, and the network that has it."""
    part, _, name = full_name.partition(".")
    network = model.part(part)
    try:
        return network, network.get_parameter(name)
    except AttributeError:
        raise BadInput(f"The model has no parameter {full_name}; the eraser is for another one.") from None
