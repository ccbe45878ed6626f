"""The tokens of a concept that are edited, and the tokens that they become, for all methods.

Shapes: n edited tokens of all concepts together, d text width, T tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from efface.apply.guard import check_guardable
from efface.models.model import POOLED, Model
from efface.models.text.embedded import Embedded
from efface.request.record import Concept, Request

STYLE_TEMPLATES = ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}")
OBJECT_TEMPLATES = ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")
ATTENTION_MASK = "kept"  # name of a guard's tensor, in eraser files too
BATCH = 256  # preserved prompts in memory at once
_FIRST = 4  # prompts of a long list that are embedded with all their tokens
_CACHED = 512  # prompts
_PADDED = 32  # a list of at most this many prompts is embedded with padding, bitwise as by a pipeline

Alignment = Literal["token", "window"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The edited tokens, each with its guide's token.

    Attributes:
        edited: The edited tokens C, (n, d), float64.
        guides: Their guides G, (n, d), float64.
        owner: The position of the concept that each token belongs to, (n,).
        prompt: The position of the edited prompt that each token belongs to, (n,).
        embedded: The edited prompts with all their tokens; only the first few if there are very many.
    """

    edited: Tensor
    guides: Tensor
    owner: Tensor
    prompt: Tensor
    embedded: Embedded

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that an eraser stores so that it can be solved again, (n, d), (n, d) and (n,)."""
        return {"edited": self.edited, "guides": self.guides, "owner": self.owner}


def prompt_pairs(concept: Concept, expand: bool) -> list[tuple[str, str]]:
    """The prompts to edit for a concept, each with the prompt of its guide."""
    guide = concept.guide
    if guide is None:
        guide = "art" if concept.kind == "style" else ""
    templates = STYLE_TEMPLATES if concept.kind == "style" else OBJECT_TEMPLATES
    expanded = [(template.format(concept.name), template.format(guide)) for template in templates] if expand else []
    return [(concept.name, guide), *expanded]


def all_prompt_pairs(request: Request, expand: bool) -> tuple[list[tuple[str, str]], list[int]]:
    """`prompt_pairs` of all concepts, and the position of the concept of each pair."""
    owned = [(pair, owner) for owner, one in enumerate(request.concepts) for pair in prompt_pairs(one, expand)]
    return [pair for pair, _ in owned], [owner for _, owner in owned]


def token_pairs(model: Model, request: Request, alignment: Alignment = "token", expand: bool = False) -> Pairs:
    """Embed the concepts and their guides, and align their tokens.

    Args:
        model: The model; only its tokenizer and text encoder are used.
        request: The concepts and guides.
        alignment: `token` pairs the last subject tokens. `window` pairs the tokens from there through the last padding,
            both cut to the shorter window. With several text encoders, each is aligned separately.
        expand: Whether to edit the concept in five templates as well.
    """
    flat, owners = all_prompt_pairs(request, expand)
    if alignment == "token" and len(flat) > _PADDED:
        probes = model.embed([prompt for prompt, _ in flat[:_FIRST]], clip_skip=request.clip_skip)
        if len(probes.sequences) == 1:
            sides = ([prompt for prompt, _ in flat], [guide for _, guide in flat])
            last, aim = (model.last_tokens(side, clip_skip=request.clip_skip).double() for side in sides)
            return Pairs(last, aim, torch.tensor(owners), torch.arange(len(flat)), probes)
    edited = model.embed([prompt for prompt, _ in flat], clip_skip=request.clip_skip)
    guides = model.embed([guide for _, guide in flat], clip_skip=request.clip_skip)
    lengths = [0] * len(flat)
    rows: list[Tensor] = []
    aims: list[Tensor] = []
    for index in range(len(flat)):
        for one, other in zip(edited.sequences, guides.sequences, strict=True):
            start, guide = int(one.last[index]), int(other.last[index])
            # The texts of some families are as long as the longest prompt, so that the two sides may differ.
            window = min(one.tokens.shape[1] - start, other.tokens.shape[1] - guide)
            length = 1 if alignment == "token" else window
            lengths[index] += length
            rows.append(one.tokens[index, start : start + length])
            aims.append(other.tokens[index, guide : guide + length])
    repeats = torch.tensor(lengths)
    return Pairs(
        edited=torch.cat(rows).double(),
        guides=torch.cat(aims).double(),
        owner=torch.tensor(owners).repeat_interleave(repeats),
        prompt=torch.arange(len(flat)).repeat_interleave(repeats),
        embedded=edited,
    )


def last_tokens_of(model: Model, prompts: Sequence[str], clip_skip: int | None) -> Iterator[Tensor]:
    """The last subject tokens of preserved prompts, (at most BATCH, d) at a time.

    For a long list, the padding is not embedded where possible, here and in `token_pairs`. The padding would take most
    of the time. Without it, the result is rounded differently from the pipeline's.

    Args:
        model: The model.
        prompts: The preserved prompts.
        clip_skip: The number of last layers of the text encoder to skip.

    Yields:
        The tokens of the next prompts, (n, d).
    """
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        if len(prompts) > _PADDED:
            yield model.last_tokens(batch, clip_skip=clip_skip)
        else:
            yield model.embed(batch, clip_skip=clip_skip).last_tokens


def embedding_once(model: Model) -> Model:
    """The same model with a cache of embedded prompts, for a method that starts from another one with the same prompts.

    The cache has a limited size, so that memory stays bounded.
    """
    cache: dict[tuple[str, int | None, bool], Embedded] = {}

    def embed(
        prompts: Sequence[str], *, clip_skip: int | None = None, truncate: bool = False, batch_size: int = 64
    ) -> Embedded:
        new = [prompt for prompt in dict.fromkeys(prompts) if (prompt, clip_skip, truncate) not in cache]
        if not prompts or len(cache) + len(new) > _CACHED:
            return model.embed(prompts, clip_skip=clip_skip, truncate=truncate, batch_size=batch_size)
        embedded = model.embed(new, clip_skip=clip_skip, truncate=truncate, batch_size=batch_size)
        cache.update({(prompt, clip_skip, truncate): embedded.take([row]) for row, prompt in enumerate(new)})
        return Embedded.stacked([cache[prompt, clip_skip, truncate] for prompt in prompts])

    other: Any = copy(model)
    other.embed = embed
    return other


def value_weights(model: Model, readers: tuple[str, ...] = ("to_v.weight",)) -> Iterator[tuple[str, Tensor]]:
    """The value maps of the text, or all maps that read it if one map makes both keys and values.

    Args:
        model: The model.
        readers: The endings of the names of the maps, if the model has one map for keys and another for values.

    Yields:
        The name of each map and its weight, (d_out, d), float64 on the CPU.
    """
    separate = any(name.endswith(("to_k.weight", "to_v.weight")) for name in model.text_parameters())
    for name, weight in model.text_weights():
        if not separate or name.endswith(readers):
            yield name, weight.double().cpu()


def guard_tensors(model: Model, request: Request, embedded: Embedded) -> dict[str, Tensor]:
    """The first of the embedded prompts, as the tensors of a guard.

    Args:
        model: The model.
        request: The request, which decides whether the pooled embedding is included.
        embedded: The embedded prompts.

    Returns:
        `concept`, (T, d); its attention mask, (T,), if the model has one; and `pooled`, (p,), if the model reads a
        pooled embedding and the request includes it.

    Raises:
        BadInput: The model's text is no argument that a guard changes.
    """
    check_guardable(model)
    tensors = {"concept": embedded.argument[0]}
    if embedded.attention_mask is not None:
        tensors[ATTENTION_MASK] = embedded.attention_mask[0]
    pooled = model.pooled(embedded.prompts[:1]) if request.pooled else None
    return tensors if pooled is None else {**tensors, POOLED: pooled[0]}
