"""AdaVD, adaptive value decomposition: the part of each value that points where the concept's does is taken out.

At every token but the first, for every cross-attention's value v = W e and the concept's t = W c:

    v' = v - s(cos(v, t)) <v, t> / <t, t> t,   s(x) = sigmoid_c / (1 + exp(-sigmoid_a (x - sigmoid_b)))

For several concepts, with q_i the Gram-Schmidt vectors of t_1, t_2, ..., q_i = sum_j G_ij t_j:

    v' = v - sum_i <v, q_i> / <q_i, q_i> sum_j G_ij s(cos(v, t_j)) t_j

Values at right angles to all t stay as they are. c is the concept's last subject token, at every position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efface.errors import BadInput
from efface.guards.base import Guard

if TYPE_CHECKING:
    from efface.edits import ValueGuard

_READER = "attn2.to_v"
_DEPENDENT = 1e-6  # of a vector's norm: what Gram-Schmidt leaves of one that the others span already


class AdaVd(Guard):
    """Its tensor: `concepts` (n, d). Its settings: token_sim, sigmoid_a, sigmoid_b and sigmoid_c."""

    def __init__(self, part: ValueGuard, denoiser: nn.Module) -> None:
        self._settings = part.settings
        readers = [module for name, module in denoiser.named_modules() if name.endswith(_READER)]
        if not readers:
            raise BadInput("adavd needs cross-attention with value maps (attn2.to_v); this model has none.")
        if getattr(denoiser, "original_attn_processors", None) is not None:
            raise BadInput("adavd cannot see values in fused projections; call unfuse_qkv_projections() before.")
        self._concepts = part.values["concepts"]
        self._known: dict[nn.Module, Values] = {}
        self._handles = [module.register_forward_hook(self._after) for module in readers]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self.strength == 0:
            return None
        if module not in self._known:
            weight: Any = module.weight
            targets = self._concepts.double() @ weight.detach().double().cpu().T
            self._known[module] = Values(targets, self._settings)
        values = output[:, 1:].float()
        kept = values - self.strength * self._known[module].erased(values)
        return torch.cat([output[:, :1], kept.to(output.dtype)], dim=1)


class Values:
    """The concepts' values in one layer.

    Args:
        targets: t, (n, d_out).
        settings: as of the guard.
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
