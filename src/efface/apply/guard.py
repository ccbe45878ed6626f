"""Guards: what acts while a model runs and changes no weight, by name; other packages add theirs by `efface.guards`.

A guard is made from its edit and a denoiser, to which it adds hooks. It works in a diffusers pipeline and in efface's
sampler, and neither needs to know of it. An eraser's file holds the guard's name, tensors and settings, never code.

Shapes: n rows of a batch, T tokens, d text width.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from efface.errors import BadFile, BadInput
from efface.models.modules import plain
from efface.parsing import Schema
from efface.registry import Registry

if TYPE_CHECKING:
    from efface.edits.kinds import GuardEdit
    from efface.models.model import Model


TEXT_ARGUMENT = "encoder_hidden_states"
# The tensor of a guard that can replace each argument of a denoiser; SDXL's last one is nested in another argument.
_TENSOR_OF_ARGUMENT = {
    TEXT_ARGUMENT: "concept",
    "encoder_attention_mask": "kept",
    "pooled_projections": "pooled",
    "text_embeds": "pooled",
}


class Guard(ABC):
    """Acts on a denoiser until it is detached.

    Args:
        edit: Its tensors and settings.
        denoiser: The denoiser that it acts on.

    Attributes:
        remembers: Whether its effect at one timestep depends on earlier timesteps of the image.
        tensors: The number of dimensions of each of its tensors; None if they are not checked.
        settings: The schema of its settings; None if they are not checked.
        strength: 0 changes nothing, 1 is its full effect.
    """

    remembers: ClassVar[bool] = False
    tensors: ClassVar[Mapping[str, int] | None] = None
    settings: ClassVar[type[Schema] | None] = None
    strength = 0.0

    @abstractmethod
    def __init__(self, edit: GuardEdit, denoiser: nn.Module) -> None: ...

    @classmethod
    def check(cls, edit: GuardEdit) -> None:
        """Check the tensors and settings of an edit that was read from a file.

        Raises:
            BadFile: A tensor or a setting is missing, or has another form.
        """
        if cls.settings is not None:
            cls.settings.checked(dict(edit.settings), f"The guard {edit.guard}")
        widths: set[int] = set()
        for name, ndim in (cls.tensors or {}).items():
            tensor = edit.values.get(name)
            if tensor is None and name in ("kept", "pooled"):
                continue
            if tensor is None or tensor.ndim != ndim or not tensor.numel():
                shape = None if tensor is None else tuple(tensor.shape)
                raise BadFile(f"the tensor {name} of the guard {edit.guard} has the shape {shape}")
            widths |= {tensor.shape[1]} if ndim == 2 else set()
        if len(widths) > 1:
            raise BadFile(f"the tensors of the guard {edit.guard} have different widths")

    def set(self, strength: float) -> None:
        """Change the strength; 0 changes nothing."""
        self.strength = strength

    @abstractmethod
    def detach(self) -> None:
        """Remove its hooks; a second call does nothing."""


def check_guardable(model: Model) -> None:
    """Check that a denoiser's text is the argument that guards change.

    Raises:
        BadInput: It has another argument.
    """
    if TEXT_ARGUMENT not in model.streams.values():
        raise BadInput(
            f"Guards change the argument {TEXT_ARGUMENT}, which the denoiser of {model.name} does not have; erase "
            "with a method that edits the text, such as uce."
        )


class Call:
    """One call of a denoiser, with positional and keyword arguments by name.

    Args:
        denoiser: The denoiser.
        args: The positional arguments of the call.
        kwargs: The keyword arguments of the call.

    Attributes:
        arguments: The arguments by name.
        sample: The noisy latents, (n, ...).
        text: The text, (n, T, d).
    """

    def __init__(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = list(inspect.signature(plain(denoiser).forward).parameters)  # a compiled module has no names
        self.arguments: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
        self.sample: Tensor = self.arguments[names[0]]
        self.text: Tensor = self.arguments[TEXT_ARGUMENT]

    def rows_per_branch(self, guard: str) -> int:
        """Half the number of rows, if the batch is an unconditional and a conditional half of the same latents.

        Raises:
            BadInput: It is not, so there is no guidance.
        """
        half, odd = divmod(len(self.sample), 2)
        if odd or not torch.equal(self.sample[:half], self.sample[half:]):
            raise BadInput(
                f"{guard} steers classifier-free guidance, and this batch has none; give a guidance scale above 1."
            )
        return half


def with_concept(
    arguments: Mapping[str, Any], concept: Mapping[str, Tensor], change: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Any]:
    """A denoiser's arguments with `change(text, text of the concept)` for each text among them.

    Args:
        arguments: The arguments by name.
        concept: The tensors of a guard (`efface.methods.closed_form.tokens.guard_tensors`): the concept's text, (T, d),
            its attention mask, (T,), and its pooled embedding, (p,), where the denoiser has them.
        change: Returns the new text of a whole batch.
    """
    changed: dict[str, Any] = {}
    for name, value in arguments.items():
        of_concept = concept.get(_TENSOR_OF_ARGUMENT.get(name, ""))
        if isinstance(value, Tensor) and of_concept is not None:
            value = change(value, of_concept.to(value.device))
        elif isinstance(value, Mapping):
            value = with_concept(cast("Mapping[str, Any]", value), concept, change)
        changed[name] = value
    return changed


_BUILTIN = {
    "adavd": "efface.methods.guidance.adavd:AdaVd",
    "negative": "efface.methods.guidance.negative:Negative",
    "sld": "efface.methods.guidance.sld:Sld",
}

GUARDS: Registry[type[Guard]] = Registry("guard", _BUILTIN, "efface.guards")
