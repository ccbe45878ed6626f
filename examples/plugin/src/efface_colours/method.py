"""A method: e -> e - Q Q^T e, with Q an orthonormal basis of the concepts' last tokens minus the empty prompt's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from efface import Model, Request, TextEdit
from efface.edits.solution import Solution
from efface.methods.base import Method
from efface.settings import Settings


def erase(model: Model, request: Request, config: Settings) -> Solution:
    """Erase the concepts of a request."""
    embedded = model.embed([*request.names, ""], clip_skip=request.clip_skip)
    tokens = embedded.last_tokens.double()
    return _solution(request, tokens[:-1] - tokens[-1], {"settings": config.model_dump()}, embedded)


def combine(solutions: Sequence[Solution], request: Request) -> Solution:
    """Erase the concepts of `request` alone, of all that the solutions erased."""
    rows = {name: row for one in solutions for name, row in zip(one.concepts, one.inputs["rows"], strict=True)}
    return _solution(request, torch.stack([rows[name] for name in request.names]), solutions[0].notes)


def _solution(request: Request, rows: Tensor, notes: Any, embedded: Any = None) -> Solution:
    basis = torch.linalg.qr(rows.T).Q
    return Solution(request, (TextEdit(-basis, basis),), {"rows": rows}, notes, embedded)


PAPER, CODE = "https://arxiv.org/abs/2306.03819", "https://github.com/EleutherAI/concept-erasure"
ENTRY = Method(
    "project_out", "Projects concepts out of the text.", PAPER, CODE, "text", Settings, erase, combine,
    uses_guides=False, uses_preserve=False,
)  # fmt: skip
