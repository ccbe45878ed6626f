"""A negative prompt, as an eraser: guidance leads away from the concepts. The baseline that costs nothing.

See `efface.guards.negative` for the equation, and for where it cannot be. The concepts' names, joined by commas, are
the negative prompt.

Paper: none; https://arxiv.org/abs/2207.12598 is of the guidance that it turns around. Reference: diffusers.
"""

from __future__ import annotations

import time

from efface.edits import ValueGuard
from efface.eraser import Eraser
from efface.methods.base import Method
from efface.methods.tokens import base_of, needs_no_guide, only_erases, preserves_nothing, provenance, told
from efface.models.base import Model
from efface.request import Request
from efface.settings import Settings


class NegativeConfig(Settings):
    """A negative prompt has no settings."""


def erase(model: Model, request: Request, config: NegativeConfig) -> Eraser:
    """Embed the negative prompt; of the model, only the tokenizer and the text encoder are used."""
    only_erases(request)
    needs_no_guide(request)
    preserves_nothing(request)
    started = time.perf_counter()
    embedded = model.embed([", ".join(request.names), ""], clip_skip=request.clip_skip)
    values = {**told(model, request, embedded), "empty": embedded.tokens[1]}
    part = ValueGuard("negative", values)
    settings = config.model_dump()
    return Eraser(request, (part,), base_of(model, embedded), {}, provenance(settings, started, time.perf_counter()))


METHOD = Method(
    name="negative",
    summary="A negative prompt: guidance leads away from the concept; no weight changes.",
    paper="https://arxiv.org/abs/2207.12598",
    repository="https://github.com/huggingface/diffusers",
    edit="guard",
    config=NegativeConfig,
    erase=erase,
)
