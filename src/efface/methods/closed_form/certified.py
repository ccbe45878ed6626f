"""The certified eraser: the operator that no embedding can undo further than its certificate says.

The tokens C of the concepts become their guides G; the tokens B, the guides among them, stay as they are. Then

    M = I - (C - G) X^T,   X^T B = 0,   X^T C = I,   M C = G,   M B = B,   M M = M         (tokens as columns)

for every such X, and M, a projection, is singular: range(M) = {y : X^T y = 0}. So the keys and values of the tokens C
are missed by (X^T S^-1 X)^-1, as the certificate `free` measures it (see `efface.eraser.certificate`). The X that makes
this largest, for all tokens at once, is the best linear unbiased estimator's

    X = S C_o (C_o^T S C_o)^+,   C_o = C - B (B^T S B)^+ B^T S C,   rho_free(c) = |c_o|_S / |c|_S

and no linear operator that leaves B alone has a larger one, for its range holds span(B), from which c is that far. A
direction of C with |c_o|_S below `cut` |c|_S has nearly all it has in common with B: it stays where it is.

Nothing of B moves, so B cannot have all d dimensions. What must not move is the guides and all tokens of the empty
prompt: guidance compares every picture with it, so that an empty prompt that moves changes every picture. Then come the
preserved tokens P: exactly, while everything exact takes at most half of d; else their leading directions in the S norm
(`preserve_rank`), and the rest as far as it is worth it: w = X e minimises

    |c|_S^2 w^T S^-1 w + mu w^T Sigma w,   Sigma = mean of p p^T:      1 / rho^2 + mu (mean squared leak w^T p)^2

which is the same solution with (S^-1 + mu / |c|_S^2 Sigma)^-1 for S. What is kept only approximately is measured and
told in the provenance.

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
from efface.methods.closed_form.certified_solve import Problem, changes, guide_error, solve
from efface.methods.closed_form.ridge import PreservedTokens
from efface.methods.closed_form.stored import stored_preserved, stored_tokens
from efface.methods.closed_form.tokens import BATCH, token_pairs
from efface.models.model import Model
from efface.models.text_gram import TextGram, text_gram
from efface.request.record import Request
from efface.settings import Settings


class CertifiedConfig(Settings):
    """What to cover, and what to give for it.

    Attributes:
        tokens: the last subject token of the concept (`last`), or all from there through the last padding (`window`),
            which moves unrelated prompts far: these tokens differ little from the ones that are kept.
        expand_prompts: cover the concept in five templates as well.
        concept_rank: cover only so many leading directions of the concepts' tokens; None covers all.
        cut: leave directions of the concepts alone that have less than this share outside what is kept.
        preserve_tokens: of a preserved prompt, keep the last subject token, or all (`all`; takes many more dimensions).
        preserve_rank: keep so many leading directions of the preserved tokens exactly; None keeps them all while they,
            the guides and the empty prompt take at most half of d, else as many as fit in that half.
        mu: what the rest of the preserved tokens is worth; at 100, a mean leak of a tenth weighs as much as a rho of 1.
    """

    tokens: Literal["last", "window"] = "last"
    expand_prompts: bool = False
    concept_rank: int | None = Field(default=None, ge=1)
    cut: float = Field(default=1e-3, gt=0, lt=1)
    preserve_tokens: Literal["last", "all"] = "last"
    preserve_rank: int | None = Field(default=None, ge=0)
    mu: float = Field(default=100.0, ge=0)


def erase(model: Model, request: Request, config: CertifiedConfig) -> Solution:
    """Solve for a request; of the model, only the text encoder and S are used."""
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
    """The edit, and how many directions of what it covers and preserves."""
    preserved = PreservedTokens.from_tensors(inputs, inputs["edited"].shape[1])
    # Of more tokens than dimensions only the Gram matrix is known: its square root has the same directions.
    rows = preserved.rows if preserved.gram is None else TextGram(preserved.gram).root
    problem = Problem(
        gram=TextGram(inputs["S"]),
        edited=inputs["edited"],
        guides=inputs["guides"],
        fixed=torch.cat([inputs["guides"], inputs["empty"]]),
        preserved=rows,
        count=int(inputs["preserve.count"]),
    )
    edit, coverage = solve(
        problem, cut=config.cut, concept_rank=config.concept_rank, preserve_rank=config.preserve_rank, mu=config.mu
    )
    return edit, {**coverage, "guide_error": guide_error(edit, problem, inputs["owner"], request.names)}


def _preserved_tokens(model: Model, request: Request, config: CertifiedConfig) -> Iterator[Tensor]:
    """The tokens of the preserved prompts that count, (n, 1 a text encoder or T, d), in batches."""
    prompts = _prompts(request)
    for first in range(0, len(prompts), BATCH):
        embedded = model.embed(prompts[first : first + BATCH], clip_skip=request.clip_skip)
        last = embedded.last_tokens.unflatten(0, (len(embedded.prompts), -1))
        yield (embedded.tokens if config.preserve_tokens == "all" else last).double()


def _tokens_per_prompt(parts: Sequence[Solution]) -> int:
    """The number of tokens that count of each preserved prompt; 0 if there is none."""
    counts = [(int(part.inputs["preserve.count"]), len(_prompts(part.request))) for part in parts]
    return next((tokens // prompts for tokens, prompts in counts if prompts), 0)


def _prompts(request: Request) -> list[str]:
    """The preserved prompts but the empty one, which is kept in any case."""
    return [prompt for prompt in request.preserve if prompt.strip()]


def _approximate(
    model: Model, request: Request, config: CertifiedConfig, gram: TextGram, edit: TextEdit
) -> dict[str, Any]:
    """How far preserved prompts move that are not kept exactly: relative, in the S norm, at their worst token."""
    moved: list[float] = []
    for tokens in _preserved_tokens(model, request, config):
        flat = tokens.flatten(0, 1)
        share = gram.norms(edit(flat) - flat) / gram.norms(flat)
        moved += share.reshape(tokens.shape[:2]).amax(1).tolist()
    return changes(_prompts(request), moved)


METHOD = Method(
    name="certified",
    summary="Sends a concept exactly to its guide by the operator that is hardest to undo, and says how hard.",
    paper="none: efface's own",
    repository="none: efface's own",
    edit="text",
    config=CertifiedConfig,
    erase=erase,
    combine=combine,
)
