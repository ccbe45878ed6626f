"""What the training scripts share: checkpoints that survive a kill, a schedule, a running average, a log."""

import json
import time
from pathlib import Path

import torch
from torch import nn


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


class Log:
    """JSON lines beside the checkpoint: the curve that the model card shows."""

    def __init__(self, path: Path):
        self.path, self.start = path, time.monotonic()

    def __call__(self, **facts: float) -> None:
        line = json.dumps({**facts, "seconds": round(time.monotonic() - self.start, 1)})
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
