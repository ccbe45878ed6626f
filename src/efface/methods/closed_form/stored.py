"""Joins the inputs that solutions of one method store, so that all their concepts can be solved again at once.

The result equals the solution of one request for all these concepts. For one solution and some of its concepts, it
equals the solution of a request for those concepts alone.

Shapes: n edited tokens, p preserved tokens, d text width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from efface.edits.solution import Solution
from efface.methods.base import CannotCombine
from efface.methods.closed_form.ridge import PreservedTokens
from efface.request.record import Request

ROWS, GRAM, LENGTHS, EMPTY = "preserve.rows", "preserve.gram", "preserve.lengths", "preserve.empty"
_NAMES = {ROWS, GRAM, LENGTHS, EMPTY}


def stored_tokens(
    parts: Sequence[Solution], request: Request, per_token: Sequence[str] = ("edited", "guides")
) -> dict[str, Tensor]:
    """Collect the edited tokens of the request's concepts, in its order, with their owners.

    Args:
        parts: The solutions. If several have a concept, the first one's tokens are used.
        request: The concepts.
        per_token: The names of the inputs that have one row per token.

    Returns:
        A tensor (n, d) for each name, and `owner`, (n,), the position of the concept of each token.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in per_token}
    counts: list[int] = []
    for concept in request.names:
        part = first_with(concept, parts)
        of_concept = part.inputs["owner"] == part.concepts.index(concept)
        counts.append(int(of_concept.sum()))
        for name in per_token:
            rows[name].append(part.inputs[name][of_concept])
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return {**{name: torch.cat(pieces) for name, pieces in rows.items()}, "owner": owner}


def stored_concepts(parts: Sequence[Solution], request: Request, name: str) -> Tensor:
    """Collect an input that has one entry per concept, in the order of the request, (concepts, ...).

    Args:
        parts: The solutions. If several have a concept, the first one's entry is used.
        request: The concepts.
        name: The name of the input.
    """
    owners = [(first_with(concept, parts), concept) for concept in request.names]
    return torch.stack([part.inputs[name][part.concepts.index(concept)] for part, concept in owners])


def first_with(concept: str, parts: Sequence[Solution]) -> Solution:
    """The first solution that erases a concept."""
    return next(part for part in parts if concept in part.concepts)


def stored_preserved(
    parts: Sequence[Solution], request: Request, width: int, prompts_of: Callable[[Request], Sequence[str]]
) -> dict[str, Tensor]:
    """Collect the preserved tokens of `request`, under the names and in the form in which solutions store them.

    Args:
        parts: The solutions. Each stores the tokens of the prompts that its own request preserves.
        request: The request, whose preserved prompts are among those of the parts.
        width: The text width d.
        prompts_of: The prompts that the method preserves for a request, in the order in which it stores their tokens.

    Returns:
        Rows (p, d) with the number of tokens per prompt, or their Gram matrix (d, d).

    Raises:
        CannotCombine: The requests preserve different prompts, and one part stores only the sum over its prompts.
    """
    prompts = list(prompts_of(request))
    blocks: dict[str, Tensor] = {}
    sums: list[tuple[list[str], Tensor]] = []
    for part in parts:
        of_part = list(prompts_of(part.request))
        stored = {name: part.inputs[name] for name in _NAMES & part.inputs.keys()}
        if of_part == prompts:
            return stored
        if GRAM in stored:
            sums.append((of_part, stored[GRAM]))
            blocks |= {"": part.inputs[EMPTY]} if EMPTY in part.inputs else {}
        else:
            blocks |= rows_by_prompt(of_part, stored[ROWS], stored.get(LENGTHS))
    if all(prompt in blocks for prompt in prompts):
        return _of_rows([blocks[prompt] for prompt in prompts], width)
    return {GRAM: _of_sums(prompts, sums, blocks)}


def rows_by_prompt(prompts: Sequence[str], rows: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
    """The rows of each prompt, (its tokens, d).

    Args:
        prompts: The prompts.
        rows: The tokens of all prompts, (p, d).
        lengths: The number of tokens of each prompt, (prompts,); None if all have the same number.
    """
    if not prompts:
        return {}
    sizes: list[int] = [len(rows) // len(prompts)] * len(prompts) if lengths is None else lengths.tolist()
    return dict(zip(prompts, rows.split(sizes), strict=True))


def _of_rows(rows: Sequence[Tensor], width: int) -> dict[str, Tensor]:
    preserved = PreservedTokens(width)
    preserved.add(torch.cat([preserved.rows, *rows]))
    return {**preserved.tensors(), LENGTHS: torch.tensor([len(tokens) for tokens in rows], dtype=torch.long)}


def _of_sums(prompts: Sequence[str], sums: Sequence[tuple[list[str], Tensor]], blocks: Mapping[str, Tensor]) -> Tensor:
    """P^T P of the prompts, (d, d).

    It is the sum over the stored lists, corrected by the tokens of the prompts that these lists lack or repeat.
    """
    gram, counts, wanted = torch.zeros_like(sums[0][1]), Counter[str](), set(prompts)
    for of_list, sum_of_list in sorted(sums, key=lambda pair: len(pair[0]), reverse=True):
        if not counts.keys() >= set(of_list):
            gram += sum_of_list
            counts.update(of_list)
    for prompt in dict.fromkeys([*prompts, *counts]):
        missing = int(prompt in wanted) - counts[prompt]
        if missing and prompt not in blocks:
            raise CannotCombine("they preserve different prompts, and of many only the sum is stored")
        if missing:
            gram += missing * blocks[prompt].T @ blocks[prompt]
    return gram
