"""What a guard is, and what those share that act on the two halves of a guided batch."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from efface.errors import BadInput
from efface.registry import Registry

if TYPE_CHECKING:
    from efface.edits.kinds import ValueGuard


TEXT = "encoder_hidden_states"
# By a denoiser's argument, or what stands in one, the tensor of a guard that can take its place: SDXL has the last one.
_WAYS = {
    TEXT: "concept",
    "encoder_attention_mask": "kept",
    "pooled_projections": "pooled",
    "text_embeds": "pooled",
}


class Guard(ABC):
    """On a denoiser from when it is made until it is detached.

    Args:
        part: its tensors and settings.
        denoiser: what it acts on.

    Attributes:
        remembers: whether what it does at one step of a picture hangs on the steps before it.
    """

    remembers: ClassVar[bool] = False
    strength = 0.0

    @abstractmethod
    def __init__(self, part: ValueGuard, denoiser: nn.Module) -> None: ...

    def set(self, strength: float) -> None:
        """Go `strength` times as far; 0 changes nothing."""
        self.strength = strength

    @abstractmethod
    def detach(self) -> None:
        """Take it off; a second call does nothing."""


class Call:
    """One call of a denoiser: its arguments by name, whichever way they were given.

    Attributes:
        arguments: by name.
        sample: the noisy latents, (n, ...).
        text: (n, T, d).
    """

    def __init__(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = list(inspect.signature(denoiser.forward).parameters)
        self.arguments: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
        self.sample: Tensor = self.arguments[names[0]]
        self.text: Tensor = self.arguments[TEXT]

    def guided(self, guard: str) -> int:
        """Half the batch, where it is an unconditional half and the conditional one of the same latents.

        Raises:
            BadInput: it is not, so there is no guidance to steer.
        """
        half, odd = divmod(len(self.sample), 2)
        if odd or not torch.equal(self.sample[:half], self.sample[half:]):
            raise BadInput(
                f"{guard} steers classifier-free guidance, and this batch has none; give a guidance scale above 1."
            )
        return half


def retold(
    arguments: Mapping[str, Any], concept: Mapping[str, Tensor], change: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Any]:
    """A denoiser's arguments with `change(text, the concept's)` for each text among them.

    Args:
        arguments: by name.
        concept: `concept` (T, d); `kept` (T,), which of its tokens are read, and `pooled` (p,), where the denoiser
            takes them too.
        change: of a whole batch's text.
    """
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        own = concept.get(_WAYS.get(name, ""))
        if isinstance(value, Tensor) and own is not None:
            value = change(value, own.to(value.device))
        elif isinstance(value, Mapping):
            value = retold(cast("Mapping[str, Any]", value), concept, change)
        found[name] = value
    return found


_BUILTIN = {
    "adavd": "efface.methods.guidance.adavd:AdaVd",
    "negative": "efface.methods.guidance.negative:Negative",
    "sld": "efface.methods.guidance.sld:Sld",
}

GUARDS: Registry[type[Guard]] = Registry("guard", _BUILTIN, "efface.guards")
