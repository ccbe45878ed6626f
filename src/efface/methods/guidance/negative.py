"""A negative prompt, as an eraser: guidance leads away from the concepts. The baseline that costs nothing.

The equation is below. The concepts' names, joined by commas, are
the negative prompt.

Paper: none; https://arxiv.org/abs/2207.12598 is of the guidance that it turns around. Reference: diffusers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from efface.apply.guard import Call, Guard, with_concept
from efface.edits.kinds import GuardEdit
from efface.edits.solution import Solution
from efface.errors import BadInput
from efface.methods.base import Method
from efface.methods.closed_form.tokens import guard_tensors
from efface.models.model import Model
from efface.request.record import Request
from efface.settings import Settings

# A negative prompt: guidance leads away from the concept instead of from the empty prompt.
#
#     prediction = model(concept) + g (model(prompt) - model(concept))
#
# The denoiser's unconditional half reads the concept in place of the empty prompt, or of the zeros that SDXL's
# pipeline
# has for it; its attention mask and the pooled embedding too, where there are any. A batch that is not guided, or
# guided
# by a negative prompt of its own, is refused: there the guard could not do what it says.


# Half precision reproduces an embedding to 1e-3 or so; another prompt's is off by much more.
_TOLERANCE = 1e-2


class Negative(Guard):
    """Its tensors: `concept` and `empty` (T, d), the embedded prompts, and where they are read too, `kept` (T,), the
    concept's attention mask, and `pooled` (p,)."""

    def __init__(self, edit: GuardEdit, denoiser: nn.Module) -> None:
        self._concept, self._empty = edit.values, edit.values["empty"].float()
        self._handle = denoiser.register_forward_pre_hook(self._before, with_kwargs=True)

    def detach(self) -> None:
        self._handle.remove()

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.strength == 0:
            return None
        call = Call(module, args, kwargs)
        half = call.rows_per_branch("negative")
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

        return (), with_concept(call.arguments, self._concept, away)

    def _is_empty(self, text: Tensor, empty: Tensor) -> bool:
        near = _TOLERANCE * len(text) ** 0.5 * empty.norm()
        return text.shape[1:] == empty.shape and bool(not text.any() or (text.float() - empty).norm() <= near)


class NegativeConfig(Settings):
    """A negative prompt has no settings."""


def erase(model: Model, request: Request, config: NegativeConfig) -> Solution:
    """Embed the negative prompt; of the model, only the tokenizer and the text encoder are used."""
    embedded = model.embed([", ".join(request.names), ""], clip_skip=request.clip_skip)
    values = {**guard_tensors(model, request, embedded), "empty": embedded.tokens[1]}
    return Solution(
        request, (GuardEdit("negative", values),), notes={"settings": config.model_dump()}, embedded=embedded
    )


ENTRY = Method(
    name="negative",
    summary="A negative prompt: guidance leads away from the concept; no weight changes.",
    paper="https://arxiv.org/abs/2207.12598",
    repository="https://github.com/huggingface/diffusers",
    edit="guard",
    config=NegativeConfig,
    erase=erase,
    uses_guides=False,
    uses_preserve=False,
)
