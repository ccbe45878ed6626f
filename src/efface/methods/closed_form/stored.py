"""Several erasers of one method and its settings as one: what they stored, side by side, to be solved again.

The outcome is the eraser that erasing all their concepts in one request would have made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from efface.eraser.eraser import Eraser
from efface.methods.closed_form.ridge import Kept
from efface.request.record import Request

ROWS, GRAM, LENGTHS, EMPTY = "preserve.rows", "preserve.gram", "preserve.lengths", "preserve.empty"
_KEPT = {ROWS, GRAM, LENGTHS, EMPTY}


class Apart(Exception):  # noqa: N818 - an outcome, not an error
    """Says why erasers cannot be solved again together."""


def joined_tokens(
    erasers: Sequence[Eraser], request: Request, per_token: Sequence[str] = ("edited", "guides")
) -> dict[str, Tensor]:
    """Their edited tokens in the order of `request`, with their owners; of a concept that several have, the first's."""
    rows: dict[str, list[Tensor]] = {name: [] for name in per_token}
    counts: list[int] = []
    for concept in request.names:
        eraser = first_with(concept, erasers)
        own = eraser.inputs["owner"] == eraser.concepts.index(concept)
        counts.append(int(own.sum()))
        for name in per_token:
            rows[name].append(eraser.inputs[name][own])
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return {**{name: torch.cat(pieces) for name, pieces in rows.items()}, "owner": owner}


def joined_concepts(erasers: Sequence[Eraser], request: Request, name: str) -> Tensor:
    """An input that has one entry a concept, in the order of `request`."""
    found = [(first_with(concept, erasers), concept) for concept in request.names]
    return torch.stack([eraser.inputs[name][eraser.concepts.index(concept)] for eraser, concept in found])


def first_with(concept: str, erasers: Sequence[Eraser]) -> Eraser:
    """The first eraser of a concept."""
    return next(eraser for eraser in erasers if concept in eraser.concepts)


def joined_kept(
    erasers: Sequence[Eraser], request: Request, prompts_of: Callable[[Request], Sequence[str]]
) -> dict[str, Tensor]:
    """The preserved tokens of `request`, as erasers store them.

    Args:
        erasers: each stores the tokens of the prompts that its own request preserves.
        request: preserves no others.
        prompts_of: the prompts that the method preserves for a request, in the order in which their tokens are stored.

    Raises:
        Apart: the requests preserve different prompts, and one of them stored only the sum over its own.
    """
    prompts = list(prompts_of(request))
    blocks: dict[str, Tensor] = {}
    sums: list[tuple[list[str], Tensor]] = []
    for eraser in erasers:
        listed, stored = (
            list(prompts_of(eraser.request)),
            {name: eraser.inputs[name] for name in _KEPT & eraser.inputs.keys()},
        )
        if listed == prompts:
            return stored
        if GRAM in stored:
            sums.append((listed, stored[GRAM]))
            blocks |= {"": eraser.inputs[EMPTY]} if EMPTY in eraser.inputs else {}
        else:
            blocks |= by_prompt(listed, stored[ROWS], stored.get(LENGTHS))
    if all(prompt in blocks for prompt in prompts):
        return _of_rows([blocks[prompt] for prompt in prompts], width=erasers[0].base.embeddings.shape[1])
    return {GRAM: _of_sums(prompts, sums, blocks)}


def _of_rows(rows: Sequence[Tensor], width: int) -> dict[str, Tensor]:
    kept = Kept(width)
    kept.add(torch.cat([kept.rows, *rows]))
    return {**kept.tensors(), LENGTHS: torch.tensor([len(tokens) for tokens in rows], dtype=torch.long)}


def _of_sums(prompts: Sequence[str], sums: Sequence[tuple[list[str], Tensor]], blocks: Mapping[str, Tensor]) -> Tensor:
    """P^T P of the prompts, from sums over lists and from the tokens of single prompts that these miss or repeat."""
    gram, times, wanted = torch.zeros_like(sums[0][1]), Counter[str](), set(prompts)
    for listed, of_list in sorted(sums, key=lambda pair: len(pair[0]), reverse=True):
        if not times.keys() >= set(listed):
            gram += of_list
            times.update(listed)
    for prompt in dict.fromkeys([*prompts, *times]):
        lacking = int(prompt in wanted) - times[prompt]
        if lacking and prompt not in blocks:
            raise Apart("they preserve different prompts, and of many only the sum is stored")
        if lacking:
            gram += lacking * blocks[prompt].T @ blocks[prompt]
    return gram


def by_prompt(prompts: Sequence[str], rows: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
    """Each prompt's rows of tokens; without lengths, all have as many."""
    if not prompts:
        return {}
    sizes: list[int] = [len(rows) // len(prompts)] * len(prompts) if lengths is None else lengths.tolist()
    return dict(zip(prompts, rows.split(sizes), strict=True))
