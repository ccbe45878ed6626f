"""A negative prompt: guidance leads away from the concept instead of from the empty prompt.

    prediction = model(concept) + g (model(prompt) - model(concept))

The denoiser's unconditional half reads the concept in place of the empty prompt, or of the zeros that SDXL's pipeline
has for it; its attention mask and the pooled embedding too, where there are any. A batch that is not guided, or guided
by a negative prompt of its own, is refused: there the guard could not do what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efface.errors import BadInput
from efface.guards.base import Call, Guard, retold

if TYPE_CHECKING:
    from efface.edits import ValueGuard

# Half precision reproduces an embedding to 1e-3 or so; another prompt's is off by much more.
_TOLERANCE = 1e-2


class Negative(Guard):
    """Its tensors: `concept` and `empty` (T, d), the embedded prompts, and where they are read too, `kept` (T,), the
    concept's attention mask, and `pooled` (p,)."""

    def __init__(self, part: ValueGuard, denoiser: nn.Module) -> None:
        self._concept, self._empty = part.values, part.values["empty"].float()
        self._handle = denoiser.register_forward_pre_hook(self._before, with_kwargs=True)

    def detach(self) -> None:
        self._handle.remove()

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.strength == 0:
            return None
        call = Call(module, args, kwargs)
        half = call.guided("negative")
        if not self._is_empty(call.text[:half], self._empty.to(call.text.device)):
            raise BadInput(
                "negative takes the place of the negative prompt, and this batch has one already; "
                "leave it away, or add the concept to it instead of attaching the eraser."
            )

        def away(text: Tensor, concept: Tensor) -> Tensor:
            if concept.dtype == torch.bool:  # which tokens are read: part of the way, both prompts' are
                both = concept if self.strength >= 1 else concept | text[:half].bool()
                return torch.cat([both.expand_as(text[:half]).to(text.dtype), text[half:]])
            led = torch.lerp(text[:half].float(), concept.float(), self.strength).to(text.dtype)
            return torch.cat([led, text[half:]])

        return (), retold(call.arguments, self._concept, away)

    def _is_empty(self, text: Tensor, empty: Tensor) -> bool:
        near = _TOLERANCE * len(text) ** 0.5 * empty.norm()
        return text.shape[1:] == empty.shape and bool(not text.any() or (text.float() - empty).norm() <= near)
