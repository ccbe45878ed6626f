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
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.edits import TextEdit
from efface.eraser import Base, Eraser
from efface.errors import BadRequest
from efface.methods.base import Method
from efface.methods.closed_form import Kept, solve
from efface.models.base import Embedded, Model
from efface.provenance import versions
from efface.request import Concept, Request
from efface.settings import Settings

STYLE_TEMPLATES = ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}")
OBJECT_TEMPLATES = ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")
_PROBES = 4
_BATCH = 256  # preserved prompts in memory at once


class UceConfig(Settings):
    """UCE's settings, by the reference's names.

    Attributes:
        variant: which of the two published alignments of tokens.
        erase_scale: a, the weight of the edited tokens.
        preserve_scale: b, the weight of the preserved ones; None is 1 for `token`, and for `window` the larger of 0.1
            and 1 / number of preserved prompts.
        lamb: the ridge that holds W' near W.
        expand_prompts: edit the concept in five templates as well.
        technique: `replace` sends the concept to its guide.
    """

    variant: Literal["token", "window"] = "token"
    erase_scale: float = Field(default=1.0, gt=0)
    preserve_scale: float | None = Field(default=None, ge=0)
    lamb: float = Field(default=0.5, ge=0)
    expand_prompts: bool = False
    technique: Literal["replace"] = "replace"


def prompt_pairs(concept: Concept, expand: bool) -> list[tuple[str, str]]:
    """The prompts to edit for a concept, each with its guide's."""
    guide = concept.guide
    if guide is None:
        guide = "art" if concept.kind == "style" else ""
    templates = STYLE_TEMPLATES if concept.kind == "style" else OBJECT_TEMPLATES
    expanded = [(template.format(concept.name), template.format(guide)) for template in templates] if expand else []
    return [(concept.name, guide), *expanded]


def erase(model: Model, request: Request, config: UceConfig) -> Eraser:
    """Solve for a request; of the model, only the tokenizer and the text encoder are used."""
    if request.goal != "erase":
        raise BadRequest(f"uce cannot {request.goal} yet; the goal must be 'erase'.")
    started = time.perf_counter()
    pairs = [prompt_pairs(concept, config.expand_prompts) for concept in request.concepts]
    flat = [pair for of_concept in pairs for pair in of_concept]
    edited = model.embed([prompt for prompt, _ in flat], clip_skip=request.clip_skip)
    guides = model.embed([guide for _, guide in flat], clip_skip=request.clip_skip)
    spans = [_spans(edited, guides, index, config.variant) for index in range(len(flat))]
    tokens = [edited.tokens[index, span] for index, (span, _) in enumerate(spans)]
    owners = [owner for owner, of_concept in enumerate(pairs) for _ in of_concept]
    kept, preserve_scale = _kept(model, request, config)
    inputs = {
        "edited": torch.cat(tokens).double(),
        "guides": torch.cat([guides.tokens[index, span] for index, (_, span) in enumerate(spans)]).double(),
        "owner": torch.cat([torch.full((len(rows),), owner) for rows, owner in zip(tokens, owners, strict=True)]),
        **kept.tensors(),
    }
    settings = config.model_dump() | {"preserve_scale": preserve_scale}
    solving = time.perf_counter()
    edit = _solve(inputs, settings)
    seconds = {"embed": solving - started, "solve": time.perf_counter() - solving}
    provenance = {"settings": settings, "versions": versions(), "seconds": seconds}
    return Eraser(request, (edit,), _base(model, edited), inputs, provenance)


def only(eraser: Eraser, names: Sequence[str]) -> Eraser:
    """The eraser of some of its concepts, solved again from the embeddings it stored."""
    request = eraser.request.keeping(names)
    positions = torch.tensor([eraser.concepts.index(name) for name in request.names])
    owner = eraser.inputs["owner"]
    rows = torch.isin(owner, positions)
    inputs = dict(eraser.inputs) | {
        "edited": eraser.inputs["edited"][rows],
        "guides": eraser.inputs["guides"][rows],
        "owner": torch.searchsorted(positions, owner[rows]),
    }
    edit = _solve(inputs, eraser.provenance["settings"])
    return Eraser(request, (edit,), eraser.base, inputs, eraser.provenance)


def _solve(inputs: Mapping[str, Tensor], settings: Mapping[str, Any]) -> TextEdit:
    edited = inputs["edited"]
    return solve(
        edited,
        inputs["guides"],
        Kept.from_tensors(inputs, edited.shape[1]),
        erase_scale=settings["erase_scale"],
        preserve_scale=settings["preserve_scale"],
        lamb=settings["lamb"],
    )


def _spans(edited: Embedded, guides: Embedded, index: int, variant: str) -> tuple[slice, slice]:
    """Which tokens of a prompt are edited, and which of its guide's they become."""
    start, guide = int(edited.last[index]), int(guides.last[index])
    length = 1 if variant == "token" else edited.tokens.shape[1] - max(start, guide)
    return slice(start, start + length), slice(guide, guide + length)


def _kept(model: Model, request: Request, config: UceConfig) -> tuple[Kept, float]:
    """The preserved tokens and their weight."""
    window = config.variant == "window"
    prompts = list(request.preserve)
    if window and "" not in prompts:
        prompts.insert(0, "")
    kept = Kept(model.width)
    for first in range(0, len(prompts), _BATCH):
        embedded = model.embed(prompts[first : first + _BATCH], clip_skip=request.clip_skip)
        kept.add(embedded.tokens.flatten(0, 1) if window else embedded.last_tokens)
    published = max(0.1, 1 / len(prompts)) if window else 1.0
    return kept, published if config.preserve_scale is None else config.preserve_scale


def _base(model: Model, edited: Embedded) -> Base:
    """The model, known by how it embeds the first few edited prompts."""
    probes = list(dict.fromkeys(edited.prompts))[:_PROBES]
    rows = [edited.prompts.index(probe) for probe in probes]
    return Base(
        model.name, model.family, model.part_hash("text_encoder"), tuple(probes), edited.last_tokens[rows].clone()
    )


METHOD = Method(
    name="uce",
    summary="Closed-form edit of what the text's keys and values are; sends a concept to its guide in one solve.",
    paper="https://arxiv.org/abs/2308.14761",
    repository="https://github.com/rohitgandikota/unified-concept-editing",
    edit="text",
    config=UceConfig,
    erase=erase,
    only=only,
)
