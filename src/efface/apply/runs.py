"""The state of a guard that remembers earlier steps: one state for each run of a sampler.

A denoiser does not receive a run's identity, only timesteps. A call belongs to another run than the call before it if

- its timestep is an element of another grid in memory, since a scheduler allocates a new grid for each run,
- it comes from another thread,
- its timestep is above the last one, or not below the first one, or
- it has another number of images.

Runs with a grid in memory or a thread of their own can take turns. A timestep that repeats, as in a sampler of second
order, belongs to the same run.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

State = TypeVar("State")
_RUNS = 16  # runs in memory, for callers that take turns on one denoiser


@dataclass
class _Run(Generic[State]):
    grid: Any  # a reference, so that the grid's address is not reused
    first: float
    last: float
    images: int
    state: State


class Runs(Generic[State]):
    """The states of the runs that a denoiser takes part in.

    Args:
        new: Returns the state at the start of a run.
    """

    def __init__(self, new: Callable[[], State]) -> None:
        self._new = new
        self._runs: OrderedDict[tuple[int, int], _Run[State]] = OrderedDict()

    def state(self, timestep: Any, images: int) -> State:
        """The state of the run that a call of the denoiser belongs to.

        Args:
            timestep: The timestep of the call: a number, or a tensor, () or (n,), that shares its memory with the grid.
            images: The number of images of the call.
        """
        now = float(torch.as_tensor(timestep).flatten()[0])
        key = (threading.get_ident(), _address_of_grid(timestep))
        run = self._runs.get(key)
        if run is None or now > run.last or now >= run.first or images != run.images:
            run = _Run(timestep, now, now, images, self._new())
        run.last = now
        self._runs[key] = run
        self._runs.move_to_end(key)
        while len(self._runs) > _RUNS:
            self._runs.popitem(last=False)
        return run.state


def _address_of_grid(timestep: Any) -> int:
    """The address of the grid of timesteps that `timestep` is an element of; 0 if it has its own memory."""
    if not isinstance(timestep, Tensor):
        return 0
    memory = timestep.untyped_storage()
    if memory.nbytes() == timestep.element_size():
        return 0  # one number, which may be expanded
    # An expanded element of a grid has other strides than memory, and an element of a grid has fewer numbers.
    has_own = timestep.is_contiguous() and memory.nbytes() == timestep.numel() * timestep.element_size()
    return 0 if has_own else memory.data_ptr()
