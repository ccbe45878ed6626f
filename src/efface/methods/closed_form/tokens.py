"""What the closed forms share: which tokens of a concept are edited, what they become, what an eraser keeps of them.

Shapes: n edited tokens of all concepts together, d text width.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from efface.eraser.eraser import Base, Eraser
from efface.errors import BadRequest
from efface.models.model import POOLED, Model
from efface.models.text.embedded import Embedded
from efface.provenance import versions
from efface.request.record import Concept, Request

STYLE_TEMPLATES = ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}")
OBJECT_TEMPLATES = ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")
KEPT = "kept"  # the tensor of a guard that is the concept's attention mask
BATCH = 256  # preserved prompts in memory at once
_PROBES = 4
_REMEMBERED = 512  # prompts
_PADDED = 32  # prompts that are embedded with their padding, as a pipeline does it, to the last bit

Alignment = Literal["token", "window"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The edited tokens, each with the token that it becomes.

    Attributes:
        edited: C, (n, d), float64.
        guides: G, (n, d), float64.
        owner: (n,), position of the concept that a token belongs to.
        prompt: (n,), which of the edited prompts it is of.
        embedded: the edited prompts, of very many the first few, with all their tokens.
    """

    edited: Tensor
    guides: Tensor
    owner: Tensor
    prompt: Tensor
    embedded: Embedded

    def tensors(self) -> dict[str, Tensor]:
        """What an eraser stores to be solved again."""
        return {"edited": self.edited, "guides": self.guides, "owner": self.owner}


def prompt_pairs(concept: Concept, expand: bool) -> list[tuple[str, str]]:
    """The prompts to edit for a concept, each with its guide's."""
    guide = concept.guide
    if guide is None:
        guide = "art" if concept.kind == "style" else ""
    templates = STYLE_TEMPLATES if concept.kind == "style" else OBJECT_TEMPLATES
    expanded = [(template.format(concept.name), template.format(guide)) for template in templates] if expand else []
    return [(concept.name, guide), *expanded]


def token_pairs(model: Model, request: Request, alignment: Alignment = "token", expand: bool = False) -> Pairs:
    """Embed the concepts and their guides, and align their tokens.

    Args:
        model: of which only the tokenizer and the text encoder are used.
        request: what to erase.
        alignment: `token` pairs the last subject tokens; `window` the tokens from there through the last padding, both
            cut to the shorter window. Where several text encoders' tokens follow one another, in each one's.
        expand: edit the concept in five templates as well.
    """
    pairs = [prompt_pairs(concept, expand) for concept in request.concepts]
    flat = [pair for of_concept in pairs for pair in of_concept]
    owners = [owner for owner, of_concept in enumerate(pairs) for _ in of_concept]
    if alignment == "token" and len(flat) > _PADDED:
        probes = model.embed([prompt for prompt, _ in flat[:_PROBES]], clip_skip=request.clip_skip)
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
            length = 1 if alignment == "token" else one.tokens.shape[1] - max(start, guide)
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

    Of more than a few prompts the padding is not embedded where it can be left out, here and in `token_pairs`: that is
    most of a long list's time, and rounds otherwise than the pipeline does.
    """
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        if len(prompts) > _PADDED:
            yield model.last_tokens(batch, clip_skip=clip_skip)
        else:
            yield model.embed(batch, clip_skip=clip_skip).last_tokens


def remembering(model: Model) -> Model:
    """The same model, embedding a prompt once: for a method that starts from another, which embeds the same prompts.

    Of very many prompts the last are embedded each time, so that memory stays bounded.
    """
    known: dict[tuple[str, int | None, bool], Embedded] = {}

    def embed(
        prompts: Sequence[str], *, clip_skip: int | None = None, truncate: bool = False, batch_size: int = 64
    ) -> Embedded:
        new = [prompt for prompt in dict.fromkeys(prompts) if (prompt, clip_skip, truncate) not in known]
        if not prompts or len(known) + len(new) > _REMEMBERED:
            return model.embed(prompts, clip_skip=clip_skip, truncate=truncate, batch_size=batch_size)
        found = model.embed(new, clip_skip=clip_skip, truncate=truncate, batch_size=batch_size)
        known.update({(prompt, clip_skip, truncate): found.take([row]) for row, prompt in enumerate(new)})
        return Embedded.stacked([known[prompt, clip_skip, truncate] for prompt in prompts])

    other: Any = copy(model)
    other.embed = embed
    return other


def base_of(model: Model, edited: Embedded) -> Base:
    """The model, known by how it embeds the first few edited prompts."""
    probes = list(dict.fromkeys(edited.prompts))[:_PROBES]
    rows = edited.take([edited.prompts.index(probe) for probe in probes])
    return Base(model.name, model.family, model.part_hash("text_encoder"), tuple(probes), rows.last_tokens)


def rows_kept(eraser: Eraser, request: Request) -> tuple[Tensor, Tensor]:
    """Which of an eraser's tokens belong to the concepts of `request`, (n,), and their new owners."""
    positions = torch.tensor([eraser.concepts.index(name) for name in request.names])
    owner = eraser.inputs["owner"]
    rows = torch.isin(owner, positions)
    return rows, torch.searchsorted(positions, owner[rows])


def inputs_kept(eraser: Eraser, request: Request, per_token: Sequence[str] = ("edited", "guides")) -> dict[str, Tensor]:
    """An eraser's inputs without the tokens of the concepts that `request` leaves out."""
    rows, owner = rows_kept(eraser, request)
    return {**eraser.inputs, **{name: eraser.inputs[name][rows] for name in per_token}, "owner": owner}


def value_weights(model: Model, readers: tuple[str, ...] = ("to_v.weight",)) -> list[str]:
    """Names of the weights that make values of the text; all that read it where one map makes keys and values."""
    names = model.text_parameters()
    if not any(name.endswith(("to_k.weight", "to_v.weight")) for name in names):
        return list(names)
    return [name for name in names if name.endswith(readers)]


def told(model: Model, request: Request, embedded: Embedded) -> dict[str, Tensor]:
    """The first of the embedded prompts as tensors of a guard: `concept`; its attention mask `kept`, where the model
    has one; and `pooled`, where it reads that too and the request wants it."""
    found = {"concept": embedded.tokens[0]}
    if embedded.attention_mask is not None:
        found[KEPT] = embedded.attention_mask[0]
    pooled = model.pooled(embedded.prompts[:1]) if request.pooled else None
    return found if pooled is None else {**found, POOLED: pooled[0]}


def provenance(settings: Mapping[str, Any], started: float, solving: float) -> dict[str, Any]:
    """What an eraser says of how it was made, now that it is solved."""
    seconds = {"embed": solving - started, "solve": time.perf_counter() - solving}
    return {"settings": dict(settings), "versions": versions(), "seconds": seconds}


def only_erases(request: Request) -> None:
    """Refuse goals other than to erase.

    Raises:
        BadRequest: the request is to debias.
    """
    if request.goal != "erase":
        raise BadRequest(f"{request.method} cannot {request.goal} yet; the goal must be 'erase'.")


def needs_no_guide(request: Request) -> None:
    """Warn of guides that a method without guides will not use."""
    guides = [concept.guide for concept in request.concepts if concept.guide]
    if guides:
        warnings.warn(f"{request.method} has no guides; '{guides[0]}' does not steer what it does.", stacklevel=3)


def preserves_nothing(request: Request) -> None:
    """Warn of a preserve list that a method without one will not use."""
    if request.preserve:
        prompt = request.preserve[0]
        warnings.warn(f"{request.method} has no preserve list; '{prompt}' is not kept by it.", stacklevel=3)
