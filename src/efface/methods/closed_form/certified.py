"""The certified eraser: an operator that comes with a bound on how far any embedding can restore a concept.

The tokens C of the concepts become their guides G. The tokens B, which include the guides, do not change. Then

    M = I - (C - G) X^T,   X^T B = 0,   X^T C = I,   M C = G,   M B = B,   M M = M         (tokens as columns)

for every such X, and M, a projection, is singular: range(M) = {y : X^T y = 0}. So the squared distance of the range
from the keys and values of the tokens C is (X^T S^-1 X)^-1, the square of the certificate `free` without its
denominator (see `efface.eraser.certificate`). The X that maximises it, for all tokens at once, is the best linear
unbiased estimator,

    X = S C_o (C_o^T S C_o)^+,   C_o = C - B (B^T S B)^+ B^T S C,   rho_free(c) = |c_o|_S / |c|_S

and no linear operator that leaves B unchanged has a larger one, since its range contains span(B), and this is the
distance of c from span(B). A direction of C with |c_o|_S below `cut` |c|_S lies almost in span(B) and is not changed.

B is preserved exactly, so it must not span all d dimensions. It contains the guides and all tokens of the empty prompt:
guidance compares every image with the empty prompt, so a change of it would change every image. It also contains the
preserved tokens P, if B then has at most d / 2 dimensions; otherwise their leading directions in the S norm
(`preserve_rank`). The other directions of P are preserved approximately, with weight mu: w = X e minimises

    |c|_S^2 w^T S^-1 w + mu w^T Sigma w,   Sigma = mean of p p^T:      1 / rho^2 + mu (mean squared leak w^T p)^2

which is the same solution with (S^-1 + mu / |c|_S^2 Sigma)^-1 in place of S. The changes of tokens that are preserved
approximately are measured and recorded in the provenance.

This method is efface's own. It has no paper.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.edits.kinds import TextEdit
from efface.edits.solution import Solution
from efface.methods.base import Method
from efface.methods.closed_form.certified_solve import Problem, changes, guide_error, solve_certified
from efface.methods.closed_form.ridge import PreservedTokens
from efface.methods.closed_form.stored import stored_preserved, stored_tokens
from efface.methods.closed_form.tokens import BATCH, token_pairs
from efface.models.model import Model
from efface.models.text_gram import TextGram, text_gram
from efface.request.record import Request
from efface.settings import Settings


class CertifiedConfig(Settings):
    """Settings of the certified eraser.

    Attributes:
        tokens: Which tokens are erased: the last subject token of the concept (`last`), or all tokens from there
            through the last padding (`window`). `window` moves unrelated prompts far, since the padding tokens of
            different prompts differ little.
        expand_prompts: Whether to erase the concept in five templates as well.
        concept_rank: The largest number of leading directions of the concepts' tokens to erase; None for all.
        cut: The share below which the part of a direction outside of the preserved tokens is too small to erase it.
        preserve_tokens: Which tokens of a preserved prompt are preserved: the last subject token (`last`), or all
            (`all`), which takes many more dimensions.
        preserve_rank: The number of leading directions of the preserved tokens to preserve exactly. None is all of them
            if they, the guides and the empty prompt take at most half of d, otherwise as many as fit in that half.
        mu: The weight of the other preserved directions. At 100, a mean leak of 0.1 weighs as much as a rho of 1.
    """

    tokens: Literal["last", "window"] = "last"
    expand_prompts: bool = False
    concept_rank: int | None = Field(default=None, ge=1)
    cut: float = Field(default=1e-3, gt=0, lt=1)
    preserve_tokens: Literal["last", "all"] = "last"
    preserve_rank: int | None = Field(default=None, ge=0)
    mu: float = Field(default=100.0, ge=0)


def erase(model: Model, request: Request, config: CertifiedConfig) -> Solution:
    """Solve for a request. Only the model's text encoder and S are used.

    Args:
        model: The model.
        request: The concepts, their guides and the preserved prompts.
        config: The settings.

    Raises:
        BadRequest: The preserved tokens leave nothing of a concept to erase.
    """
    pairs = token_pairs(model, request, "token" if config.tokens == "last" else "window", config.expand_prompts)
    preserved, count = PreservedTokens(model.width), 0
    for tokens in _preserved_tokens(model, request, config):
        preserved.add(tokens.flatten(0, 1))
        count += tokens.shape[0] * tokens.shape[1]
    gram = text_gram(model)
    inputs = {
        **pairs.tensors(),
        "empty": model.embed([""], clip_skip=request.clip_skip).tokens[0].double(),
        **preserved.tensors(),
        "preserve.count": torch.tensor(count),
        "S": gram.matrix,
    }
    started = time.perf_counter()
    edit, coverage = _solve(request, inputs, config)
    if coverage["preserve_directions_kept_approximately"]:
        coverage |= _approximate(model, request, config, gram, edit)
    notes = {"settings": config.model_dump(), "coverage": coverage}
    return Solution(request, (edit,), inputs, notes, pairs.embedded, time.perf_counter() - started)


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of the request's concepts, solved again from the stored embeddings and the stored S.

    Raises:
        CannotCombine: The parts preserve different prompts, and of many only the sum is stored.
    """
    first, config = parts[0], CertifiedConfig.model_validate(request.options)
    empty = first.inputs["empty"]
    inputs = {
        **stored_tokens(parts, request),
        **stored_preserved(parts, request, empty.shape[1], _prompts),
        "empty": empty,
        "preserve.count": torch.tensor(len(_prompts(request)) * _tokens_per_prompt(parts)),
        "S": first.inputs["S"],
    }
    edit, coverage = _solve(request, inputs, config)
    return Solution(request, (edit,), inputs, {**first.notes, "coverage": coverage})


def _solve(request: Request, inputs: Mapping[str, Tensor], config: CertifiedConfig) -> tuple[TextEdit, dict[str, Any]]:
    """The edit, and the numbers of directions that it covers and preserves."""
    preserved = PreservedTokens.from_tensors(inputs, inputs["edited"].shape[1])
    # Only the Gram matrix of many tokens is stored. Its square root has the same directions.
    rows = preserved.rows if preserved.gram is None else TextGram(preserved.gram).root
    problem = Problem(
        gram=TextGram(inputs["S"]),
        edited=inputs["edited"],
        guides=inputs["guides"],
        fixed=torch.cat([inputs["guides"], inputs["empty"]]),
        preserved=rows,
        count=int(inputs["preserve.count"]),
    )
    edit, coverage = solve_certified(
        problem, cut=config.cut, concept_rank=config.concept_rank, preserve_rank=config.preserve_rank, mu=config.mu
    )
    return edit, {**coverage, "guide_error": guide_error(edit, problem, inputs["owner"], request.names)}


def _preserved_tokens(model: Model, request: Request, config: CertifiedConfig) -> Iterator[Tensor]:
    """The tokens of the preserved prompts that are used, (n, k, d), in batches.

    k is the number of text encoders, or T.
    """
    prompts = _prompts(request)
    for first in range(0, len(prompts), BATCH):
        embedded = model.embed(prompts[first : first + BATCH], clip_skip=request.clip_skip)
        last = embedded.last_tokens.unflatten(0, (len(embedded.prompts), -1))
        yield (embedded.tokens if config.preserve_tokens == "all" else last).double()


def _tokens_per_prompt(parts: Sequence[Solution]) -> int:
    """The number of tokens that are used of each preserved prompt; 0 if no prompt is preserved."""
    counts = [(int(part.inputs["preserve.count"]), len(_prompts(part.request))) for part in parts]
    return next((tokens // prompts for tokens, prompts in counts if prompts), 0)


def _prompts(request: Request) -> list[str]:
    """The preserved prompts except the empty one, which is always preserved."""
    return [prompt for prompt in request.preserve if prompt.strip()]


def _approximate(
    model: Model, request: Request, config: CertifiedConfig, gram: TextGram, edit: TextEdit
) -> dict[str, Any]:
    """The relative changes of the preserved prompts in the S norm, each at its worst token, summarised."""
    moved: list[float] = []
    for tokens in _preserved_tokens(model, request, config):
        flat = tokens.flatten(0, 1)
        share = gram.norms(edit(flat) - flat) / gram.norms(flat)
        moved += share.reshape(tokens.shape[:2]).amax(1).tolist()
    return changes(_prompts(request), moved)


ENTRY = Method(
    name="certified",
    summary="Maps a concept exactly to its guide by the operator that is hardest to undo, with a certified bound.",
    paper="none: efface's own",
    repository="none: efface's own",
    edit="text",
    config=CertifiedConfig,
    erase=erase,
    combine=combine,
)
