"""CURE: the directions of a concept's tokens are projected out of the text, except those shared with retained tokens.

    E_f = U_f S_f V_f^T,   E_r = U_r S_r V_r^T                             (tokens to forget and to retain as columns)
    P   = U diag(f(r_i)) U^T,   r_i = s_i^2 / sum_j s_j^2,   f(r) = alpha r / ((alpha - 1) r + 1)
    W'  = W (I - P_dis),   P_dis = P_f - P_f P_r                           for every W that reads text

With one token to forget, r = 1 and P_f is the projection onto it for every alpha; if nothing is retained, the token
becomes zero. There is no guide. For alpha -> infinity, P_f and P_r are the projections onto the spans of their tokens.

Paper: https://arxiv.org/abs/2505.12677 (NeurIPS 2025). The authors' repository has no code of the method:
https://github.com/ShristiDasBiswas/CURE-Concept-Unlearning-via-Orthogonal-Representation-Editing-in-Diffusion-Models
The equations and the two values of alpha follow two independent reimplementations of the paper. They differ in which
tokens of a prompt are the columns of E, so that is a setting here. `expand_prompts`, with
the templates of UCE, is ours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.edits.kinds import TextEdit
from efface.edits.solution import Solution
from efface.methods.base import Method
from efface.methods.closed_form.ridge import PreservedTokens, check_finite
from efface.methods.closed_form.stored import LENGTHS, stored_preserved, stored_tokens
from efface.methods.closed_form.tokens import BATCH, all_prompt_pairs
from efface.models.model import Model
from efface.models.text.embedded import Embedded
from efface.request.record import Request
from efface.settings import Settings

_EPSILON = 1e-12  # share of the largest singular value; smaller ones are rounding errors


class CureConfig(Settings):
    """CURE's settings, by the paper's symbols.

    Attributes:
        alpha: How strongly the weaker directions of a concept are removed too, at least 1; None is 5 if a concept of
            kind `unsafe` is erased, else 2.
        tokens: Which tokens of a prompt are used: those of its words (`subject`), the last of them (`last`), or from
            the first of them through the end and padding tokens (`window`).
        retain_empty: Whether to retain the empty prompt too. With `window` this preserves the padding of every prompt.
        expand_prompts: Whether to forget the concept in five templates as well.
    """

    alpha: float | None = Field(default=None, ge=1)
    tokens: Literal["subject", "last", "window"] = "subject"
    retain_empty: bool = True
    expand_prompts: bool = False


def erase(model: Model, request: Request, config: CureConfig) -> Solution:
    """Solve for a request. Only the model's tokenizer and text encoder are used.

    Args:
        model: The model.
        request: The concepts and the preserved prompts.
        config: The settings.
    """
    pairs, owners = all_prompt_pairs(request, config.expand_prompts)
    embedded = model.embed([prompt for prompt, _ in pairs], clip_skip=request.clip_skip)
    rows = _tokens(embedded, config)
    owner = torch.tensor(owners).repeat_interleave(torch.tensor([len(tokens) for tokens in rows]))
    inputs = {"edited": torch.cat(rows).double(), "owner": owner, **_retained(model, request, config)}
    started = time.perf_counter()
    edit = _solve(inputs, _alpha(request, config))
    return Solution(
        request, (edit,), inputs, {"settings": _settings(request, config)}, embedded, time.perf_counter() - started
    )


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of the request's concepts, solved again from the stored embeddings.

    Raises:
        CannotCombine: The parts retain different prompts, and of many only the sum is stored.
    """
    config, width = CureConfig.model_validate(request.options), parts[0].inputs["edited"].shape[1]
    retained = stored_preserved(parts, request, width, partial(_prompts, config=config))
    inputs = {**stored_tokens(parts, request, per_token=("edited",)), **retained}
    edit = _solve(inputs, _alpha(request, config))
    return Solution(request, (edit,), inputs, {**parts[0].notes, "settings": _settings(request, config)})


def _settings(request: Request, config: CureConfig) -> dict[str, Any]:
    return config.model_dump() | {"alpha": _alpha(request, config)}


def _alpha(request: Request, config: CureConfig) -> float:
    published = 5.0 if any(concept.kind == "unsafe" for concept in request.concepts) else 2.0
    return published if config.alpha is None else config.alpha


def _solve(inputs: Mapping[str, Tensor], alpha: float) -> TextEdit:
    """-P_dis as L R^T with L = -U_f diag(f), R = (I - P_r) U_f."""
    edited = inputs["edited"]
    check_finite(edited)
    directions, strengths = _spectrum(edited, alpha)
    tokens = PreservedTokens.from_tensors(inputs, edited.shape[1])
    retained, weights = _spectrum(tokens.rows, alpha) if tokens.gram is None else _spectrum_of(tokens.gram, alpha)
    right = directions - retained @ (weights[:, None] * (retained.T @ directions))
    return TextEdit(-directions * strengths, right)


def _spectrum(rows: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Directions U (d, k) of tokens (n, d), and f(r), (k,)."""
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    return _expanded(directions.T, singular, alpha)


def _spectrum_of(gram: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The same from the tokens' Gram matrix (d, d)."""
    squares, directions = torch.linalg.eigh(gram)
    return _expanded(directions, squares.clamp(min=0).sqrt(), alpha)


def _expanded(directions: Tensor, singular: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    if not len(singular):
        return directions, singular
    real = singular > _EPSILON * singular.max()
    energy = singular[real].square() / singular.square().sum()
    return directions[:, real].contiguous(), alpha * energy / ((alpha - 1) * energy + 1)


def _tokens(embedded: Embedded, config: CureConfig) -> list[Tensor]:
    """The used tokens of each prompt, (n_i, d). For the empty prompt it is the start token, unless `window`."""
    rows: list[Tensor] = []
    for index in range(len(embedded.prompts)):
        counted: list[Tensor] = []
        for part in embedded.sequences:
            tokens, end, start = part.tokens[index], int(part.last[index]), part.start
            first = end if config.tokens == "last" else min(start, end) if config.tokens == "subject" else start
            counted.append(tokens[first:] if config.tokens == "window" else tokens[first : end + 1])
        rows.append(torch.cat(counted))
    return rows


def _retained(model: Model, request: Request, config: CureConfig) -> dict[str, Tensor]:
    """The tensors that an eraser stores for the retained prompts: their tokens, and the number of tokens of each."""
    prompts, retained, lengths = _prompts(request, config), PreservedTokens(model.width), list[int]()
    for first in range(0, len(prompts), BATCH):
        embedded = model.embed(prompts[first : first + BATCH], clip_skip=request.clip_skip)
        tokens = _tokens(embedded, config)
        lengths += map(len, tokens)
        retained.add(torch.cat(tokens))
    return {**retained.tensors(), LENGTHS: torch.tensor(lengths, dtype=torch.long)}


def _prompts(request: Request, config: CureConfig) -> list[str]:
    prompts = list(request.preserve)
    return ["", *prompts] if config.retain_empty and "" not in prompts else prompts


ENTRY = Method(
    name="cure",
    summary="Projects a concept's directions out of the text, except those that it shares with preserved prompts.",
    paper="https://arxiv.org/abs/2505.12677",
    repository="https://github.com/ShristiDasBiswas/CURE-Concept-Unlearning-via-Orthogonal-Representation-Editing-in-Diffusion-Models",
    edit="text",
    config=CureConfig,
    erase=erase,
    combine=combine,
    uses_guides=False,
)
