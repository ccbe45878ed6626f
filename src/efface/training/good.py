"""The last trained tensors that are known to be of use, for when a training diverges."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from efface.training.networks import Weights

#: A copy is made when the last one is this many times as old as it took to make.
_SHARE = 20.0


class LastGood:
    """Copies of weights at which the loss was finite: weights that are finite themselves may be far too large.

    They are held in the memory of the CPU, and replaced as often as costs next to nothing.

    Args:
        weights: of what.
        keep: writes the weights as they are after some steps, and says where.
    """

    def __init__(self, weights: Weights, keep: Callable[[int], Path]) -> None:
        self._weights, self._keep = weights, keep
        self._tensors: dict[str, Tensor] = {}
        self._step, self._made, self._took = 0, float("-inf"), 0.0

    def saw(self, step: int) -> None:
        """The loss was finite at the weights as they are, after so many steps; without any they are the base's."""
        started = time.perf_counter()
        if step == 0 or started - self._made < _SHARE * self._took:
            return
        self._tensors = {name: tensor.to("cpu", copy=True) for name, tensor in self._weights.state_dict().items()}
        self._step, self._made = step, time.perf_counter()
        self._took = self._made - started

    def write(self) -> str:
        """Put the copies back into the weights and write them; says where, or that there are none."""
        if not self._tensors:
            return ""
        self._weights.load_state_dict(self._tensors)
        return f" The eraser after {self._step} steps, whose loss was still finite, is {self._keep(self._step)}."
