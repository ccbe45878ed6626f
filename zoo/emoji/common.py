"""Shared code of the training scripts: checkpoints that survive a kill, a schedule, averaged weights, a log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from muon import Muon


def save_checkpoint(path: Path, **state: object) -> None:
    """Write to a temporary name, then rename: a kill never leaves half a checkpoint."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then linear decay to zero."""
    return peak * min(step / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))


class Average:
    """Exponential moving average of a module's parameters, warmed up as 1 - 1/(step + 1)."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.shadow = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, 1 - 1 / (step + 1))
        for shadow, p in zip(self.shadow, module.parameters(), strict=True):
            shadow.lerp_(p.detach(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for target, average in zip(module.parameters(), self.shadow, strict=True):
            target.copy_(average)


class Checkpoint:
    """Where training stands, in one file: weights, optimiser, average, and the next step.

    Opening it puts a stopped run back to where it was saved last, `step` included.
    """

    def __init__(self, path: Path, module: nn.Module, optimiser: Muon, average: Average | None = None):
        self.path, self.module, self.optimiser, self.average, self.step = path, module, optimiser, average, 0
        if path.exists():
            state = torch.load(path, weights_only=True)
            module.load_state_dict(state["model"])
            optimiser.load_full_state(state["optimiser"])
            self.step = state["step"]
            if average is not None:
                average.shadow = state["average"]

    def steps(self, last: int, every: int, **more: object) -> Iterator[int]:
        """The steps still to do. When a step's work is done it is averaged and counted; every so many are saved."""
        while self.step < last:
            yield self.step
            self.step += 1
            if self.average is not None:
                self.average.update(self.module, self.step)
                more["average"] = self.average.shadow
            if self.step % every == 0 or self.step == last:
                state = {"model": self.module.state_dict(), "optimiser": self.optimiser.full_state()}
                save_checkpoint(self.path, step=self.step, **state, **more)


class Log:
    """JSON lines beside the checkpoint: the curve that the model card shows."""

    def __init__(self, path: Path):
        self.path, self.start = path, time.monotonic()

    def __call__(self, **facts: float) -> None:
        line = json.dumps({**facts, "seconds": round(time.monotonic() - self.start, 1)})
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
