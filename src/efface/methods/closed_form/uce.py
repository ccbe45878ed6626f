"""UCE, unified concept editing: each concept's tokens are read as its guide's, by ridge regression.

    min_W'  a sum_i |W' c_i - W g_i|^2 + b sum_j |W' p_j - W p_j|^2 + lamb |W' - W|^2     for every W that reads text
    W' = W (I + D),   D = a (G - C) C^T (lamb I + a C C^T + b P P^T)^-1                   (tokens as columns)

Paper: https://arxiv.org/abs/2308.14761 (WACV 2024). Reference: https://github.com/rohitgandikota/unified-concept-editing

Two published variants, with their own defaults:
- `token` (trainscripts/uce_sd_erase.py, 2025): c and g are the last subject tokens of a prompt and of its guide's,
  p the last subject token of a preserved prompt; nothing is preserved by default.
- `window` (train-scripts/train_erase.py, 2023; behind the paper's numbers): c runs from the last subject token through
  the end and padding tokens, g likewise, both cut to the shorter window; p are all tokens of a preserved prompt, and
  the empty prompt is always one. Unlike that script, kind `style` preserves no list of artists unless it is given.

An unsafe theme is moderated, in the paper's word, by erasing it towards the empty prompt, the default of that kind. The
goal debias is in `uce_debias`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from efface.edits.kinds import Edit, TextEdit
from efface.eraser.eraser import Eraser
from efface.errors import BadRequest
from efface.methods.base import Measure, Method
from efface.methods.closed_form.ridge import Kept, right_factor, solve
from efface.methods.closed_form.stored import EMPTY, joined_kept, joined_tokens
from efface.methods.closed_form.tokens import (
    BATCH,
    base_of,
    inputs_kept,
    last_tokens_of,
    provenance,
    rows_kept,
    token_pairs,
)
from efface.methods.closed_form.uce_debias import DebiasConfig, balanced
from efface.methods.closed_form.uce_tensor import deflected, deflected_again, side_by_side
from efface.models.model import Model
from efface.progress import Progress
from efface.request.record import Request


class UceConfig(DebiasConfig):
    """UCE's settings, by the reference's names.

    Attributes:
        variant: which of the two published alignments of tokens.
        erase_scale: a, the weight of the edited tokens.
        preserve_scale: b, the weight of the preserved ones; None is 1 for `token`, and for `window` the larger of 0.1
            and 1 / number of preserved prompts.
        lamb: the ridge that holds W' near W.
        expand_prompts: edit the concept in five templates as well.
        technique: `replace` sends the concept to its guide; `tensor`, in `window` only, to its guide without the part
            that points where the concept does.
    """

    variant: Literal["token", "window"] = "token"
    erase_scale: float = Field(default=1.0, gt=0)
    preserve_scale: float | None = Field(default=None, ge=0)
    lamb: float = Field(default=0.5, ge=0)
    expand_prompts: bool = False
    technique: Literal["replace", "tensor"] = "replace"

    @model_validator(mode="after")
    def _published(self) -> UceConfig:
        if self.technique == "tensor" and self.variant != "window":
            raise BadRequest("The technique 'tensor' is of the 2023 code; set variant=window with it.")
        return self


def erase(
    model: Model,
    request: Request,
    config: UceConfig,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> Eraser:
    """Solve for a request; to erase by `replace`, only the model's tokenizer and text encoder are used."""
    _fits_goal(request, config)
    started = time.perf_counter()
    model.hash_ahead("text_encoder")
    pairs = token_pairs(model, request, config.variant, config.expand_prompts)
    kept, preserve_scale = _kept(model, request, config)
    inputs = {**pairs.tensors(), **kept}
    settings = _settings(request, config, preserve_scale)
    base, solving = base_of(model, pairs.embedded), time.perf_counter()

    def solved(guides: Tensor) -> Eraser:
        to = {**inputs, "guides": guides}
        return Eraser(request, (_solve(to, settings),), base, to, provenance(settings, started, solving))

    if request.goal == "debias":
        return balanced(model, request, config, pairs.edited, solved, measure, progress)
    if config.technique == "tensor":
        edits = deflected(model, pairs, _right(inputs, settings), config.erase_scale)
        return Eraser(request, edits, base, inputs, provenance(settings, started, solving))
    return solved(pairs.guides)


def only(eraser: Eraser, names: Sequence[str]) -> Eraser:
    """The eraser of some of its concepts, solved again from the embeddings it stored."""
    request = eraser.request.keeping(names)
    inputs, settings = inputs_kept(eraser, request), eraser.provenance["settings"]
    edits: tuple[Edit, ...]
    if settings["technique"] == "tensor":
        rows, _ = rows_kept(eraser, request)
        edits = deflected_again(eraser.edits, rows, _right(inputs, settings))
    else:
        edits = (_solve(inputs, settings),)
    return Eraser(request, edits, eraser.base, inputs, eraser.provenance)


def together(erasers: Sequence[Eraser], request: Request) -> Eraser:
    """The eraser of all concepts of several, solved again from what they stored."""
    return joined(erasers, request, UceConfig.model_validate(request.options))


def joined(erasers: Sequence[Eraser], request: Request, config: UceConfig) -> Eraser:
    """What `together` does, for the UCE that another method's erasers start from."""
    prompts_of = partial(_preserved, variant=config.variant)
    inputs = {**joined_tokens(erasers, request), **joined_kept(erasers, request, prompts_of)}
    settings = _settings(request, config, _preserve_scale(config, len(prompts_of(request))))
    edits = side_by_side(erasers, request) if config.technique == "tensor" else ()
    # Shares of images were measured under each eraser alone.
    told = {name: said for name, said in erasers[0].provenance.items() if name != "shares"} | {"settings": settings}
    return only(Eraser(request, edits, erasers[0].base, inputs, told), request.names)


def _fits_goal(request: Request, config: UceConfig) -> None:
    """Refuse settings that the goal has no use for."""
    if request.goal == "erase":
        unused = sorted(config.model_fields_set & DebiasConfig.model_fields.keys() - {"seed"})
        if unused:
            raise BadRequest(f"{unused[0]} is for the goal debias; leave it out, or add --goal debias.")
    elif config.variant != "token" or config.expand_prompts:
        raise BadRequest("The goal debias edits one token a concept: leave variant and expand_prompts as they are.")


def _settings(request: Request, config: UceConfig, preserve_scale: float) -> dict[str, Any]:
    """What the goal reads of the settings."""
    of_other_goal = set(DebiasConfig.model_fields) if request.goal == "erase" else set[str]()
    return config.model_dump(exclude=of_other_goal) | {"preserve_scale": preserve_scale}


def _solve(inputs: Mapping[str, Tensor], settings: Mapping[str, Any]) -> TextEdit:
    return solve(inputs["edited"], inputs["guides"], **_scales(inputs, settings))


def _right(inputs: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
    return right_factor(inputs["edited"], **_scales(inputs, settings))


def _scales(inputs: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    scales = {name: settings[name] for name in ("erase_scale", "preserve_scale", "lamb")}
    return {"kept": Kept.from_tensors(inputs, inputs["edited"].shape[1]), **scales}


def _kept(model: Model, request: Request, config: UceConfig) -> tuple[dict[str, Tensor], float]:
    """The preserved tokens as they are stored, and their weight."""
    prompts, kept = _preserved(request, config.variant), Kept(model.width)
    if config.variant == "window":
        for first in range(0, len(prompts), BATCH):
            kept.add(model.embed(prompts[first : first + BATCH], clip_skip=request.clip_skip).tokens.flatten(0, 1))
    else:
        for tokens in last_tokens_of(model, prompts, request.clip_skip):
            kept.add(tokens)
    stored = kept.tensors()
    if config.variant == "window" and kept.gram is not None:
        # Of every list, so that sums over two lists can be told from the sum over both.
        stored[EMPTY] = model.embed([""], clip_skip=request.clip_skip).tokens[0].double()
    return stored, _preserve_scale(config, len(prompts))


def _preserved(request: Request, variant: str) -> list[str]:
    prompts = list(request.preserve)
    return ["", *prompts] if variant == "window" and "" not in prompts else prompts


def _preserve_scale(config: UceConfig, prompts: int) -> float:
    """b, where it is not given the published one for so many preserved prompts."""
    if config.preserve_scale is not None:
        return config.preserve_scale
    return max(0.1, 1 / prompts) if config.variant == "window" else 1.0


METHOD = Method(
    name="uce",
    summary="Closed-form edit of what the text's keys and values are; sends a concept to its guide in one solve.",
    paper="https://arxiv.org/abs/2308.14761",
    repository="https://github.com/rohitgandikota/unified-concept-editing",
    edit="text",
    config=UceConfig,
    erase=erase,
    only=only,
    together=together,
    needs=("measure", "progress"),
)
