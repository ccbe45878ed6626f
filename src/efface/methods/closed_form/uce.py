"""UCE, unified concept editing: each concept's tokens are mapped to its guide's tokens, by ridge regression.

    min_W'  a sum_i |W' c_i - W g_i|^2 + b sum_j |W' p_j - W p_j|^2 + lamb |W' - W|^2     for every W that reads text
    W' = W (I + D),   D = a (G - C) C^T (lamb I + a C C^T + b P P^T)^-1                   (tokens as columns)

Paper: https://arxiv.org/abs/2308.14761 (WACV 2024). Reference:
https://github.com/rohitgandikota/unified-concept-editing

Two published variants, with their own defaults:
- `token` (trainscripts/uce_sd_erase.py, 2025): c and g are the last subject tokens of a prompt and of its guide's,
  p the last subject token of a preserved prompt; nothing is preserved by default.
- `window` (train-scripts/train_erase.py, 2023; behind the paper's numbers): c runs from the last subject token through
  the end and padding tokens, g likewise, both cut to the shorter window; p are all tokens of a preserved prompt, and
  the empty prompt is always preserved. Unlike the script, kind `style` preserves a list of artists only on request.

An unsafe theme is erased towards the empty prompt, the default guide of that kind; the paper calls this moderation. The
goal debias is in `uce_debias`; the linear solve is in `ridge`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from efface.edits.kinds import TextEdit
from efface.edits.solution import Solution
from efface.errors import BadRequest
from efface.methods.base import Measure, Method
from efface.methods.closed_form.ridge import PreservedTokens, right_factor, solve_ridge
from efface.methods.closed_form.stored import EMPTY, stored_preserved, stored_tokens
from efface.methods.closed_form.tokens import BATCH, last_tokens_of, token_pairs
from efface.methods.closed_form.uce_debias import DebiasConfig, debiased
from efface.methods.closed_form.uce_tensor import combined_tensor_edits, tensor_edits
from efface.models.model import Model
from efface.progress import Progress
from efface.request.record import Request


class UceConfig(DebiasConfig):
    """UCE's settings, by the reference's names.

    Attributes:
        variant: The published alignment of tokens, and its defaults.
        erase_scale: The weight a of the edited tokens.
        preserve_scale: The weight b of the preserved tokens; None is 1 for `token`, and for `window` the larger of 0.1
            and 1 / number of preserved prompts.
        lamb: The ridge, which holds W' near W.
        expand_prompts: Whether to edit the concept in five templates as well.
        technique: `replace` maps the concept to its guide; `tensor`, in `window` only, to its guide minus the guide's
            projection onto the concept (`uce_tensor`).
    """

    variant: Literal["token", "window"] = "token"
    erase_scale: float = Field(default=1.0, gt=0)
    preserve_scale: float | None = Field(default=None, ge=0)
    lamb: float = Field(default=0.5, ge=0)
    expand_prompts: bool = False
    technique: Literal["replace", "tensor"] = "replace"

    @model_validator(mode="after")
    def _check_technique(self) -> UceConfig:
        if self.technique == "tensor" and self.variant != "window":
            raise BadRequest("The technique 'tensor' belongs to the 2023 code; set variant=window with it.")
        return self


def erase(
    model: Model,
    request: Request,
    config: UceConfig,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Solve for a request. With the technique `replace`, only the model's tokenizer and text encoder are used.

    Args:
        model: The model.
        request: The concepts, their guides and the preserved prompts.
        config: The settings.
        measure: For the goal debias: generates images and measures the shares of the attributes.
        progress: Called after each round of images.

    Raises:
        BadRequest: A setting does not belong to the goal.
    """
    _check_goal(request, config)
    pairs = token_pairs(model, request, config.variant, config.expand_prompts)
    inputs = {**pairs.tensors(), **_preserved_tokens(model, request, config)}
    started = time.perf_counter()

    def solve_for_guides(guides: Tensor) -> Solution:
        return _solve_replace(request, {**inputs, "guides": guides}, config)

    if request.goal == "debias":
        solution = debiased(model, request, config, pairs.edited, solve_for_guides, measure, progress)
    elif config.technique == "tensor":
        right = right_factor(pairs.edited, **_ridge_arguments(inputs, request, config))
        edits = tensor_edits(model, pairs, right, config.erase_scale)
        solution = Solution(request, edits, inputs, {"settings": _settings(request, config)})
    else:
        solution = solve_for_guides(pairs.guides)
    return replace(solution, embedded=pairs.embedded, solve_seconds=time.perf_counter() - started)


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of the request's concepts, solved again from the stored embeddings.

    Raises:
        CannotCombine: The parts preserve different prompts, and of many only the sum is stored.
    """
    return combine_with_config(parts, request, UceConfig.model_validate(request.options))


def combine_with_config(parts: Sequence[Solution], request: Request, config: UceConfig) -> Solution:
    """`combine` with given settings, for methods that start from uce.

    Args:
        parts: The solutions of uce, or of a method that stores the inputs of uce.
        request: The concepts, among those of the parts.
        config: The settings of uce.
    """
    width = parts[0].inputs["edited"].shape[1]
    preserved = stored_preserved(parts, request, width, partial(preserved_prompts, variant=config.variant))
    inputs = {**stored_tokens(parts, request), **preserved}
    if config.technique == "tensor":
        right = right_factor(inputs["edited"], **_ridge_arguments(inputs, request, config))
        solution = Solution(request, combined_tensor_edits(parts, request, right), inputs)
    else:
        solution = _solve_replace(request, inputs, config)
    notes = dict(parts[0].notes)
    if len(parts) > 1:
        notes.pop("shares", None)  # measured with each part alone
    return replace(solution, notes={**notes, "settings": _settings(request, config)})


def _check_goal(request: Request, config: UceConfig) -> None:
    """Reject settings that do not belong to the goal."""
    if request.goal == "erase":
        unused = sorted(config.model_fields_set & DebiasConfig.model_fields.keys() - {"seed"})
        if unused:
            raise BadRequest(f"{unused[0]} is for the goal debias; leave it out, or add --goal debias.")
    elif config.variant != "token" or config.expand_prompts:
        raise BadRequest("The goal debias edits one token per concept; leave out variant and expand_prompts.")


def _solve_replace(request: Request, inputs: Mapping[str, Tensor], config: UceConfig) -> Solution:
    edit: TextEdit = solve_ridge(inputs["edited"], inputs["guides"], **_ridge_arguments(inputs, request, config))
    return Solution(request, (edit,), inputs, {"settings": _settings(request, config)})


def _ridge_arguments(inputs: Mapping[str, Tensor], request: Request, config: UceConfig) -> dict[str, Any]:
    """The arguments of `ridge.solve_ridge` and `ridge.right_factor`, except for the edited tokens and their guides."""
    return {
        "preserved": PreservedTokens.from_tensors(inputs, inputs["edited"].shape[1]),
        "erase_scale": config.erase_scale,
        "preserve_scale": _preserve_scale(request, config),
        "lamb": config.lamb,
    }


def _settings(request: Request, config: UceConfig) -> dict[str, Any]:
    """The settings that the goal uses, with the weight of the preserved tokens resolved."""
    of_other_goal = set(DebiasConfig.model_fields) if request.goal == "erase" else set[str]()
    return config.model_dump(exclude=of_other_goal) | {"preserve_scale": _preserve_scale(request, config)}


def _preserve_scale(request: Request, config: UceConfig) -> float:
    """b: the given one, else the published one for this number of preserved prompts."""
    if config.preserve_scale is not None:
        return config.preserve_scale
    return max(0.1, 1 / len(preserved_prompts(request, config.variant))) if config.variant == "window" else 1.0


def preserved_prompts(request: Request, variant: str) -> list[str]:
    """The preserved prompts, in the order in which their tokens are stored; `window` includes the empty prompt."""
    prompts = list(request.preserve)
    return ["", *prompts] if variant == "window" and "" not in prompts else prompts


def _preserved_tokens(model: Model, request: Request, config: UceConfig) -> dict[str, Tensor]:
    """The tokens of the preserved prompts in stored form: rows (p, d) or a Gram matrix (d, d)."""
    prompts, preserved = preserved_prompts(request, config.variant), PreservedTokens(model.width)
    if config.variant == "token":
        for tokens in last_tokens_of(model, prompts, request.clip_skip):
            preserved.add(tokens)
        return preserved.tensors()
    for first in range(0, len(prompts), BATCH):
        preserved.add(model.embed(prompts[first : first + BATCH], clip_skip=request.clip_skip).tokens.flatten(0, 1))
    stored = preserved.tensors()
    if preserved.gram is not None:
        # Every list contains the empty prompt: `combine` adds two sums and subtracts its tokens once.
        stored[EMPTY] = model.embed([""], clip_skip=request.clip_skip).tokens[0].double()
    return stored


ENTRY = Method(
    name="uce",
    summary="Maps a concept to its guide in the keys and values of the text, by one closed-form solve.",
    paper="https://arxiv.org/abs/2308.14761",
    repository="https://github.com/rohitgandikota/unified-concept-editing",
    edit="text",
    config=UceConfig,
    erase=erase,
    combine=combine,
    goals=("erase", "debias"),
    needs=("measure", "progress"),
)
