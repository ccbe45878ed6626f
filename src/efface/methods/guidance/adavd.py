"""AdaVD: while sampling, the part of each value that points where the concept's does is taken out; no weight changes.

See `efface.methods.guidance.adavd` for the equations.

Paper: https://arxiv.org/abs/2412.06143 (CVPR 2025). Reference: https://github.com/WYuan1001/AdaVD, src/main.py. There,
cosine and projection are of both of guidance's branches as one vector: that is `joint`, off by default, as it needs
guidance and the paper speaks of single values. A joint cosine of 0.93, the published middle of the sigmoid, is a
conditional one of 0.86 for equal norms, the default without `joint`. Unlike there, from the third concept on
Gram-Schmidt projects on the orthogonal vectors, where the code projects on the original ones, which leaves them at
other than right angles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from efface.apply.guard import Call, Guard
from efface.edits.kinds import GuardEdit
from efface.edits.solution import Solution
from efface.errors import BadInput
from efface.methods.base import Method
from efface.models.model import Model
from efface.models.modules import has_fused_projections, is_compiled
from efface.request.record import Request
from efface.settings import Settings

# AdaVD, adaptive value decomposition: the part of each value that points where the concept's does is taken out.
#
# At every token but the first, for every cross-attention's value v = W e and the concept's t = W c:
#
#     v' = v - s(cos(v, t)) <v, t> / <t, t> t,   s(x) = sigmoid_c / (1 + exp(-sigmoid_a (x - sigmoid_b)))
#
# For several concepts, with q_i the Gram-Schmidt vectors of t_1, t_2, ..., q_i = sum_j G_ij t_j:
#
#     v' = v - sum_i <v, q_i> / <q_i, q_i> sum_j G_ij s(cos(v, t_j)) t_j
#
# Values at right angles to all t stay as they are. c is the concept's last subject token, at every position.
#
# With `joint`, as the reference's code has it, v is the values of guidance's unconditional and conditional branch as
# one
# long vector, and t that of W e and W c, with e the empty prompt's token at the same position.


_READER = "attn2.to_v"
_DEPENDENT = 1e-6  # of a vector's norm: what Gram-Schmidt leaves of one that the others span already


class AdaVd(Guard):
    """Its tensors: `concepts` (n, d) and `empty` (T, d). Its settings: joint, token_sim, sigmoid_a, _b and _c."""

    def __init__(self, edit: GuardEdit, denoiser: nn.Module) -> None:
        self._settings = edit.settings
        readers = [module for name, module in denoiser.named_modules() if name.endswith(_READER)]
        if not readers:
            raise BadInput("adavd needs cross-attention with value maps (attn2.to_v); this model has none.")
        if has_fused_projections(denoiser):
            raise BadInput("adavd cannot see values in fused projections; call unfuse_qkv_projections() before.")
        if is_compiled(denoiser):
            raise BadInput("adavd works inside the denoiser, where a compiled one does not let it; do not compile it.")
        self._concepts, self._empty = edit.values["concepts"], edit.values["empty"]
        self._joint = bool(edit.settings["joint"])
        self._known: dict[nn.Module, list[Values]] = {}
        self._handles = [module.register_forward_hook(self._after) for module in readers]
        if self._joint:
            self._handles.append(denoiser.register_forward_pre_hook(self._before, with_kwargs=True))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.strength:
            Call(module, args, kwargs).rows_per_branch("adavd with joint")

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self.strength == 0:
            return None
        if module not in self._known:
            self._known[module] = self._values(module)
        values = torch.cat(output.chunk(2), dim=-1) if self._joint else output
        erased = [known.erased(part) for known, part in zip(self._known[module], self._parts(values), strict=True)]
        taken = torch.cat([torch.zeros_like(values[:, :1]).float(), *erased], dim=1)
        kept = (values.float() - self.strength * taken).to(output.dtype)
        return torch.cat(kept.chunk(2, dim=-1)) if self._joint else kept

    def _parts(self, values: Tensor) -> list[Tensor]:
        """The tokens but the first, one by one where each has targets of its own, in float32."""
        rest = values[:, 1:].float()
        return list(rest.split(1, dim=1)) if self._joint else [rest]

    def _values(self, module: nn.Module) -> list[Values]:
        weight: Any = module.weight
        weight = weight.detach().double().cpu()
        targets = self._concepts.double() @ weight.T
        if not self._joint:
            return [Values(targets, self._settings)]
        others = self._empty[1:].double() @ weight.T
        return [Values(torch.cat([other.expand_as(targets), targets], 1), self._settings) for other in others]


class Values:
    """The concepts' values in one layer.

    Args:
        targets: t, (n, d_out).
        settings: As of the guard.
    """

    def __init__(self, targets: Tensor, settings: Any) -> None:
        self._adaptive = bool(settings["token_sim"])
        self._sigmoid = [float(settings[f"sigmoid_{letter}"]) for letter in "abc"]
        self._targets = targets
        self._gram = gram_schmidt(targets)
        orthogonal = self._gram @ targets
        squares = orthogonal.square().sum(1, keepdim=True)
        real = squares > _DEPENDENT**2 * targets.square().sum(1, keepdim=True)
        # q / <q, q>, and nothing for a concept that the ones before it span.
        self._dual = torch.where(real, orthogonal / squares.clamp(min=torch.finfo(squares.dtype).tiny), 0.0)

    def erased(self, values: Tensor) -> Tensor:
        """What is taken out of values (..., d_out)."""
        targets, gram, dual = (part.to(values) for part in (self._targets, self._gram, self._dual))
        weights = values @ dual.T @ gram  # sum_i <v, q_i> / <q_i, q_i> G_ij, (..., n)
        if self._adaptive:
            steep, middle, height = self._sigmoid
            units = targets / targets.norm(dim=1, keepdim=True).clamp(min=1e-12)
            cosine = values @ units.T / values.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            weights = weights * height * torch.sigmoid(steep * (cosine - middle))
        return weights @ targets


def gram_schmidt(rows: Tensor) -> Tensor:
    """G (n, n), unit lower triangular, that makes `rows` (n, d) orthogonal: (G rows)(G rows)^T is diagonal."""
    gram = torch.eye(len(rows), dtype=rows.dtype)
    for i in range(1, len(rows)):
        for j in range(i):
            orthogonal = gram[j] @ rows
            square = orthogonal @ orthogonal
            if square > _DEPENDENT**2 * (rows[j] @ rows[j]):
                gram[i] = gram[i] - (orthogonal @ rows[i]) / square * gram[j]
    return gram


class AdaVdConfig(Settings):
    """AdaVD's settings, by the reference's names.

    Attributes:
        token_sim: Shift by how alike a value and the concept's are; without, take all of the common part.
        sigmoid_a: How sharply the shift sets in.
        sigmoid_b: The cosine at which it is half of `sigmoid_c`; None is 0.93 with `joint`, else 0.86.
        sigmoid_c: The most of the common part that is taken: 2 turns it around.
        joint: Take both branches' values as one vector, as the reference's code does; needs guidance.
    """

    token_sim: bool = True
    sigmoid_a: float = Field(default=100.0, gt=0)
    sigmoid_b: float | None = Field(default=None, ge=-1, le=1)
    sigmoid_c: float = Field(default=2.0, gt=0)
    joint: bool = False


def erase(model: Model, request: Request, config: AdaVdConfig) -> Solution:
    """Embed the concepts; their values are computed when the eraser is attached."""
    embedded = model.embed(request.names, clip_skip=request.clip_skip)
    empty = model.embed([""], clip_skip=request.clip_skip).tokens[0]
    settings = config.model_dump()
    if config.sigmoid_b is None:
        settings["sigmoid_b"] = 0.93 if config.joint else 0.86
    edit = GuardEdit("adavd", {"concepts": embedded.last_tokens, "empty": empty}, settings)
    return Solution(request, (edit,), notes={"settings": settings}, embedded=embedded)


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of the request's concepts: their tokens are taken from the parts, nothing is computed."""
    edits: list[GuardEdit] = []
    rows: dict[str, Tensor] = {}
    for part in reversed(parts):
        (edit,) = part.edits
        assert isinstance(edit, GuardEdit)
        rows |= zip(part.concepts, edit.values["concepts"], strict=True)
        edits.append(edit)
    values = {**edits[-1].values, "concepts": torch.stack([rows[name] for name in request.names])}
    return replace(parts[0], request=request, edits=(replace(edits[-1], values=values),))


ENTRY = Method(
    name="adavd",
    summary="Takes a concept's part out of every value while sampling, as far as they are alike; no weight changes.",
    paper="https://arxiv.org/abs/2412.06143",
    repository="https://github.com/WYuan1001/AdaVD",
    edit="guard",
    config=AdaVdConfig,
    erase=erase,
    combine=combine,
    uses_guides=False,
    uses_preserve=False,
)
