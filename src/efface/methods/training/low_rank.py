"""Weights of low rank: a LoRA for each layer, trained beside the frozen weights of the denoiser, which are not read.

    W' = W + alpha / r  up @ down,    up (d_out, r) = 0 and down (r, d_in) uniform at the start (arXiv 2106.09685)

The kernel of a convolution is part of d_in, so that `down` is a convolution of the same size and `up` one of size 1.
The rank of a layer is at most the number of its inputs and outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from efface.edits.kinds import WeightEdit
from efface.methods.training.weights import Weights
from efface.models.parameters import Adapter, Parameters


class LowRank(Weights):
    """Factors of the weights of some layers, in float32: up (d_out, r) and down (r, d_in).

    Args:
        denoiser: The denoiser.
        layers: The names of its linear layers and convolutions.
        rank: The largest rank r.
        alpha: The scale of the change, times r.
        generator: The source of the first values, on the CPU.
    """

    def __init__(
        self, denoiser: nn.Module, layers: Iterable[str], rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.names = tuple(f"{layer}.weight" for layer in layers)
        bases = [denoiser.get_parameter(name) for name in self.names]
        ranks = [min(rank, *base.shape[:2]) for base in bases]
        self._scales = [alpha / r for r in ranks]
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for base, r in zip(bases, ranks, strict=True):
            bound = 1 / math.sqrt(math.prod(base.shape[1:]))
            first = torch.rand(r, math.prod(base.shape[1:]), generator=generator) * (2 * bound) - bound
            self.down.append(nn.Parameter(first.to(base.device)))
            self.up.append(nn.Parameter(torch.zeros(len(base), r, device=base.device)))

    def forward(self) -> Parameters:
        layers = zip(self.names, self.up, self.down, self._scales, strict=True)
        return {name.removesuffix(".weight"): Adapter(up, down, scale) for name, up, down, scale in layers}

    @torch.no_grad()
    def edits(self) -> tuple[WeightEdit, ...]:
        layers = zip(self.names, self.up, self.down, self._scales, strict=True)
        return tuple(
            WeightEdit(f"denoiser.{name}", up=(scale * up).cpu(), down=down.detach().cpu().clone())
            for name, up, down, scale in layers
        )
