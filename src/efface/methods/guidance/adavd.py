"""AdaVD, adaptive value decomposition: removes the part of each cross-attention value along the concept's value.

At every token but the first, for every cross-attention's value v = W e and the concept's value t = W c:

    v' = v - s(cos(v, t)) <v, t> / <t, t> t,   s(x) = sigmoid_c / (1 + exp(-sigmoid_a (x - sigmoid_b)))

For several concepts, with q_i the Gram-Schmidt vectors of t_1, t_2, ..., q_i = sum_j G_ij t_j:

    v' = v - sum_i <v, q_i> / <q_i, q_i> sum_j G_ij s(cos(v, t_j)) t_j

Values orthogonal to all t do not change. c is the concept's last subject token, at every position. No weight changes;
the guard acts during sampling.

With `joint`, as in the reference's code, v is the concatenation of the values of the unconditional and the conditional
branch, and t that of W e and W c, with e the empty prompt's token at the same position.

Paper: https://arxiv.org/abs/2412.06143 (CVPR 2025). Reference: https://github.com/WYuan1001/AdaVD, src/main.py.
Deviations:
- `joint` is off by default, since it needs guidance and the paper defines the method for single values. A joint cosine
  of 0.93, the published middle of the sigmoid, equals a conditional cosine of 0.86 for equal norms, the default without
  `joint`.
- From the third concept on, Gram-Schmidt projects on the orthogonal vectors. The code projects on the original vectors,
  so its results are not orthogonal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

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
from efface.parsing import Schema
from efface.request.record import Request
from efface.settings import Settings

_READER = "attn2.to_v"
_DEPENDENT = 1e-6  # share of a vector's norm; below it, the vector is in the span of the previous ones


class AdaVdGuardSettings(Schema):
    """The settings of the guard; see `AdaVdConfig`."""

    token_sim: bool
    sigmoid_a: float = Field(gt=0)
    sigmoid_b: float = Field(ge=-1, le=1)
    sigmoid_c: float = Field(gt=0)
    joint: bool


class AdaVd(Guard):
    """The guard of AdaVD.

    Its tensors are `concepts`, (n, d), and `empty`, (T, d). Its settings are joint, token_sim, sigmoid_a, sigmoid_b and
    sigmoid_c.

    Args:
        edit: The tensors and settings.
        denoiser: The denoiser that it acts on.

    Raises:
        BadInput: The denoiser's values cannot be read or replaced.
    """

    tensors: ClassVar[Mapping[str, int] | None] = {"concepts": 2, "empty": 2}
    settings: ClassVar[type[Schema] | None] = AdaVdGuardSettings

    def __init__(self, edit: GuardEdit, denoiser: nn.Module) -> None:
        self._settings = edit.settings
        readers = [module for name, module in denoiser.named_modules() if name.endswith(_READER)]
        if not readers:
            raise BadInput("adavd needs cross-attention with value maps (attn2.to_v); this model has none.")
        if has_fused_projections(denoiser):
            raise BadInput("adavd cannot read values in fused projections; call unfuse_qkv_projections() first.")
        if is_compiled(denoiser):
            raise BadInput(
                "adavd needs hooks inside the denoiser, which a compiled one does not allow; leave it uncompiled."
            )
        self._concepts, self._empty = edit.values["concepts"], edit.values["empty"]
        self._joint = bool(edit.settings["joint"])
        self._values_of: dict[nn.Module, list[Values]] = {}
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
        if module not in self._values_of:
            self._values_of[module] = self._values(module)
        values = torch.cat(output.chunk(2), dim=-1) if self._joint else output
        parts = zip(self._values_of[module], self._parts(values), strict=True)
        erased = [targets.erased(part) for targets, part in parts]
        removed = torch.cat([torch.zeros_like(values[:, :1]).float(), *erased], dim=1)
        remaining = (values.float() - self.strength * removed).to(output.dtype)
        return torch.cat(remaining.chunk(2, dim=-1)) if self._joint else remaining

    def _parts(self, values: Tensor) -> list[Tensor]:
        """The tokens after the first, in float32, one by one if each has its own targets."""
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
        targets: The values t, (n, d_out).
        settings: The settings of the guard.
    """

    def __init__(self, targets: Tensor, settings: Any) -> None:
        self._adaptive = bool(settings["token_sim"])
        self._sigmoid = [float(settings[f"sigmoid_{letter}"]) for letter in "abc"]
        self._targets = targets
        self._gram = gram_schmidt(targets)
        orthogonal = self._gram @ targets
        squares = orthogonal.square().sum(1, keepdim=True)
        real = squares > _DEPENDENT**2 * targets.square().sum(1, keepdim=True)
        # q / <q, q>, and zero for a concept in the span of the previous ones.
        self._dual = torch.where(real, orthogonal / squares.clamp(min=torch.finfo(squares.dtype).tiny), 0.0)

    def erased(self, values: Tensor) -> Tensor:
        """The part to remove from values (..., d_out), in the same shape."""
        targets, gram, dual = (part.to(values) for part in (self._targets, self._gram, self._dual))
        weights = values @ dual.T @ gram  # sum_i <v, q_i> / <q_i, q_i> G_ij, (..., n)
        if self._adaptive:
            steep, middle, height = self._sigmoid
            units = targets / targets.norm(dim=1, keepdim=True).clamp(min=1e-12)
            cosine = values @ units.T / values.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            weights = weights * height * torch.sigmoid(steep * (cosine - middle))
        return weights @ targets


def gram_schmidt(rows: Tensor) -> Tensor:
    """The unit lower triangular G (n, n) for which the rows of G `rows` are orthogonal; `rows` is (n, d)."""
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
        token_sim: Whether to scale the removed part by s, a function of the cosine; otherwise all of it is removed.
        sigmoid_a: The slope of s.
        sigmoid_b: The cosine at which s is half of `sigmoid_c`; None is 0.93 with `joint`, else 0.86.
        sigmoid_c: The largest value of s; at 2 the part along the concept is reversed.
        joint: Whether to treat the values of both branches as one vector, as in the reference's code; needs guidance.
    """

    token_sim: bool = True
    sigmoid_a: float = Field(default=100.0, gt=0)
    sigmoid_b: float | None = Field(default=None, ge=-1, le=1)
    sigmoid_c: float = Field(default=2.0, gt=0)
    joint: bool = False


def erase(model: Model, request: Request, config: AdaVdConfig) -> Solution:
    """Embed the concepts. Their values are computed when the eraser is attached.

    Args:
        model: The model.
        request: The concepts.
        config: The settings.
    """
    embedded = model.embed(request.names, clip_skip=request.clip_skip)
    empty = model.embed([""], clip_skip=request.clip_skip).tokens[0]
    settings = config.model_dump()
    if config.sigmoid_b is None:
        settings["sigmoid_b"] = 0.93 if config.joint else 0.86
    edit = GuardEdit("adavd", {"concepts": embedded.last_tokens, "empty": empty}, settings)
    return Solution(request, (edit,), notes={"settings": settings}, embedded=embedded)


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of the request's concepts. Their tokens are taken from the parts, and nothing is solved."""
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
    summary="Removes the part of every cross-attention value along the concept's while sampling; no weight changes.",
    paper="https://arxiv.org/abs/2412.06143",
    repository="https://github.com/WYuan1001/AdaVD",
    edit="guard",
    config=AdaVdConfig,
    erase=erase,
    combine=combine,
    uses_guides=False,
    uses_preserve=False,
    after=None,
)
