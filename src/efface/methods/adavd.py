"""AdaVD: while sampling, the part of each value that points where the concept's does is taken out; no weight changes.

See `efface.guards.adavd` for the equations.

Paper: https://arxiv.org/abs/2412.06143 (CVPR 2025). Reference: https://github.com/WYuan1001/AdaVD, src/main.py. There,
cosine and projection are of both of guidance's branches as one vector: that is `joint`, off by default, as it needs
guidance and the paper speaks of single values. A joint cosine of 0.93, the published middle of the sigmoid, is a
conditional one of 0.86 for equal norms, the default without `joint`. Unlike there, from the third concept on
Gram-Schmidt projects on the orthogonal vectors, where the code projects on the original ones, which leaves them at
other than right angles.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from efface.edits import ValueGuard
from efface.eraser import Eraser
from efface.methods.base import Method
from efface.methods.tokens import base_of, needs_no_guide, only_erases, preserves_nothing, provenance
from efface.models.base import Model
from efface.request import Request
from efface.settings import Settings


class AdaVdConfig(Settings):
    """AdaVD's settings, by the reference's names.

    Attributes:
        token_sim: shift by how alike a value and the concept's are; without, take all of the common part.
        sigmoid_a: how sharply the shift sets in.
        sigmoid_b: the cosine at which it is half of `sigmoid_c`; None is 0.93 with `joint`, else 0.86.
        sigmoid_c: the most of the common part that is taken: 2 turns it around.
        joint: take both branches' values as one vector, as the reference's code does; needs guidance.
    """

    token_sim: bool = True
    sigmoid_a: float = Field(default=100.0, gt=0)
    sigmoid_b: float | None = Field(default=None, ge=-1, le=1)
    sigmoid_c: float = Field(default=2.0, gt=0)
    joint: bool = False


def erase(model: Model, request: Request, config: AdaVdConfig) -> Eraser:
    """Embed the concepts; their values are computed when the eraser is attached."""
    only_erases(request)
    needs_no_guide(request)
    preserves_nothing(request)
    started = time.perf_counter()
    embedded = model.embed(request.names, clip_skip=request.clip_skip)
    empty = model.embed([""], clip_skip=request.clip_skip).tokens[0]
    settings = config.model_dump()
    if config.sigmoid_b is None:
        settings["sigmoid_b"] = 0.93 if config.joint else 0.86
    part = ValueGuard("adavd", {"concepts": embedded.last_tokens, "empty": empty}, settings)
    return Eraser(request, (part,), base_of(model, embedded), {}, provenance(settings, started, time.perf_counter()))


def only(eraser: Eraser, names: Sequence[str]) -> Eraser:
    """The eraser of some of its concepts."""
    request = eraser.request.keeping(names)
    rows = torch.tensor([eraser.concepts.index(name) for name in request.names])
    part = _part(eraser)
    part = replace(part, values={**part.values, "concepts": part.values["concepts"][rows]})
    return replace(eraser, request=request, edits=(part,))


def together(erasers: Sequence[Eraser], request: Request) -> Eraser:
    """The eraser of all concepts of several."""
    rows: dict[str, Tensor] = {}
    for eraser in reversed(erasers):
        rows |= zip(eraser.concepts, _part(eraser).values["concepts"], strict=True)
    values = {**_part(erasers[0]).values, "concepts": torch.stack([rows[name] for name in request.names])}
    return replace(erasers[0], request=request, edits=(replace(_part(erasers[0]), values=values),))


def _part(eraser: Eraser) -> ValueGuard:
    (part,) = eraser.edits
    assert isinstance(part, ValueGuard)
    return part


METHOD = Method(
    name="adavd",
    summary="Takes a concept's part out of every value while sampling, as far as they are alike; no weight changes.",
    paper="https://arxiv.org/abs/2412.06143",
    repository="https://github.com/WYuan1001/AdaVD",
    edit="guard",
    config=AdaVdConfig,
    erase=erase,
    only=only,
    together=together,
)
