"""A negative prompt: guidance leads away from the concept instead of from the empty prompt.

    prediction = model(concept) + g (model(prompt) - model(concept))

The denoiser's unconditional half reads the concept in place of the empty prompt. A batch that is not guided, or guided
by a negative prompt of its own, is refused: there the guard could not do what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from efface.errors import BadInput
from efface.guards.base import TEXT, Call, Guard

if TYPE_CHECKING:
    from efface.edits import ValueGuard

# Half precision reproduces an embedding to 1e-3 or so; another prompt's is off by much more.
_TOLERANCE = 1e-2


class Negative(Guard):
    """Its tensors: `concept` (T, d) and `empty` (T, d), the embedded prompts."""

    def __init__(self, part: ValueGuard, denoiser: nn.Module) -> None:
        self._concept, self._empty = part.values["concept"].float(), part.values["empty"].float()
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
        empty, concept = self._empty.to(call.text.device), self._concept.to(call.text.device)
        if not self._is_empty(call.text[:half], empty):
            raise BadInput(
                "negative takes the place of the negative prompt, and this batch has one already; "
                "leave it away, or add the concept to it instead of attaching the eraser."
            )
        text = call.text.clone()
        text[:half] = (empty + self.strength * (concept - empty)).to(text.dtype)
        return (), {**call.arguments, TEXT: text}

    def _is_empty(self, text: Tensor, empty: Tensor) -> bool:
        return text.shape[1:] == empty.shape and bool(
            (text.float() - empty).norm() <= _TOLERANCE * len(text) ** 0.5 * empty.norm()
        )
