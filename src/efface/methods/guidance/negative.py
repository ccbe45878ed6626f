"""A negative prompt as an eraser: guidance leads away from the concept instead of from the empty prompt.

    prediction = model(concept) + g (model(prompt) - model(concept))

The unconditional half of the batch reads the concept in place of the empty prompt, or of the zeros that SDXL's pipeline
uses. The attention mask and the pooled embedding are replaced too, if the model has them. The negative prompt is the
concepts' names, joined by commas. A batch without guidance, or with another negative prompt, is refused, since the
guard would have no effect or the wrong one.

This is a baseline without any cost. Paper: none; classifier-free guidance is https://arxiv.org/abs/2207.12598.
Reference: diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.apply.guard import Call, Guard, with_concept
from efface.edits.kinds import GuardEdit
from efface.edits.solution import Solution
from efface.errors import BadInput
from efface.methods.base import Method
from efface.methods.closed_form.tokens import guard_tensors
from efface.models.model import Model
from efface.models.text.embedded import embedding_margin
from efface.request.record import Request
from efface.settings import Settings


class Negative(Guard):
    """The guard of a negative prompt.

    Its tensors are the embedded prompts `concept` and `empty`, (T, d), and, if the model reads them, the attention mask
    of the concept, (T,), and `pooled`, (p,).

    Args:
        edit: The tensors.
        denoiser: The denoiser that it acts on.
    """

    tensors: ClassVar[Mapping[str, int] | None] = {"concept": 2, "empty": 2, "kept": 1, "pooled": 1}

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
                "negative replaces the negative prompt, and this batch has one already; "
                "leave it out, or add the concept to it instead of attaching the eraser."
            )

        def away(text: Tensor, concept: Tensor) -> Tensor:
            if concept.dtype == torch.bool:  # a mask: at a partial strength, both prompts are read
                both = concept if self.strength >= 1 else concept | text[:half].bool()
                return torch.cat([both.expand_as(text[:half]).to(text.dtype), text[half:]])
            steered = torch.lerp(text[:half].float(), concept.float(), self.strength).to(text.dtype)
            return torch.cat([steered, text[half:]])

        return (), with_concept(call.arguments, self._concept, away)

    def _is_empty(self, text: Tensor, empty: Tensor) -> bool:
        near = embedding_margin(text, empty) * len(text) ** 0.5 * empty.norm()
        return text.shape[1:] == empty.shape and bool(not text.any() or (text.float() - empty).norm() <= near)


class NegativeConfig(Settings):
    """The method has no settings."""


def erase(model: Model, request: Request, config: NegativeConfig) -> Solution:
    """Embed the negative prompt. Only the model's tokenizer and text encoder are used.

    Args:
        model: The model.
        request: The concepts.
        config: The settings.
    """
    embedded = model.embed([", ".join(request.names), ""], clip_skip=request.clip_skip)
    values = {**guard_tensors(model, request, embedded), "empty": embedded.argument[1]}
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
    after=None,
)
