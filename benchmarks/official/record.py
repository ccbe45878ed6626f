"""Runs an official script of ESD for one step in float32 and records the step.

    python -m official.record RECORD SEED SCRIPT ARGUMENT...

The script's file is not changed. `torch.bfloat16`, a constant in it, is float32 here, and Python's `random` is seeded,
which the script does not do. The record, a file of safetensors, has

    noise            the noise at which the trajectory starts
    index            the number of steps of the trajectory
    x, t             the denoiser's input in the call of the trained network
    target, loss     the target of the loss, and the loss
    gradient.NAME    the gradient of each trained parameter
    steps            the number of steps that the script took

esd_sdxl.py of 2025 contains its program twice. So it trains twice, each time from the base, and the second result
replaces the first; the record is of the second.
"""

from __future__ import annotations

import random
import runpy
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

_DENOISERS = ("UNet2DConditionModel", "FluxTransformer2DModel", "Flux2Transformer2DModel")


class Recorder:
    """What happens while a script runs, in `found`: the arguments and results of the last call of each function."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}
        self._numbers: list[int] = []
        self._denoiser = nn.Module()

    def install(self) -> None:
        """Record from now on, until the process ends."""
        register_module_forward_hook(self._after_call, with_kwargs=True)
        register_optimizer_step_pre_hook(self._before_step)
        randn, randint, mse_loss = torch.randn, random.randint, nn.functional.mse_loss

        def recorded_randn(*args: Any, **named: Any) -> Tensor:
            noise = randn(*args, **named)
            self.found["noise"] = noise.clone()
            return noise

        def recorded_randint(low: int, high: int) -> int:
            self._numbers.append(randint(low, high))
            return self._numbers[-1]

        def recorded_loss(prediction: Tensor, target: Tensor, **named: Any) -> Tensor:
            loss = mse_loss(prediction, target, **named)
            self.found |= {"target": target.detach().clone(), "loss": loss.detach().clone()}
            return loss

        torch.randn, random.randint, nn.functional.mse_loss = recorded_randn, recorded_randint, recorded_loss

    def _after_call(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if type(module).__name__ in _DENOISERS:
            x, t = args if args else (named["hidden_states"], named["timestep"])
            self._denoiser = module
            self.found |= {"x": x.detach().clone(), "t": t.detach().clone().float().reshape(1)}

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, named: Any) -> None:
        self.found["index"] = torch.tensor(self._numbers[-2])  # the last number is the seed of the noise
        self.found["steps"] = self.found.get("steps", torch.tensor(0)) + 1
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in self._denoiser.named_parameters():
            if id(parameter) in trained:
                assert parameter.grad is not None
                self.found[f"gradient.{name}"] = parameter.grad.clone()


def main() -> None:
    record, seed, script, *arguments = sys.argv[1:]
    sys.path.insert(0, str(Path(script).parent))
    sys.argv = [script, *arguments]
    assert diffusers.__version__, transformers.__version__  # imported before the type is replaced
    torch.bfloat16 = torch.float32
    recorder = Recorder()
    recorder.install()
    random.seed(int(seed))
    runpy.run_path(script, run_name="__main__")
    save_file({name: tensor.contiguous() for name, tensor in recorder.found.items()}, record)


if __name__ == "__main__":
    main()
