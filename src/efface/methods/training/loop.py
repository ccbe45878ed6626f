"""The loop that every trained method runs in.

A step of the optimiser takes one batch of each *slot*: as many slots as there are processes times accumulated batches.
Slot s belongs to process s mod P, and what it draws depends on its number alone, so that two processes do what one does
with two accumulated batches. All randomness is drawn from generators seeded by slot and step (`objective.seeded`):
weights, optimiser and an objective's own state are all that a checkpoint needs to be taken up again bit for bit.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efface.errors import BadInput
from efface.methods.training import checkpoints as state
from efface.methods.training.checkpoints import Checkpoints
from efface.methods.training.objective import Batch, Losses, Objective

if TYPE_CHECKING:
    from accelerate import Accelerator

    from efface.methods.training.weights import Weights


class _Step(nn.Module):
    """What accelerate prepares: one loss a call, with the trained tensors, and no others, as parameters."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.weights = objective.weights
        self._loss = objective.loss

    def forward(self, batch: Batch) -> Losses:
        return self._loss(batch)


class Training:
    """One objective, trained until it has done all its steps or is finished.

    Args:
        accelerator: Under which.
        objective: What.
        checkpoints: Where it is taken up again from, and logged; None is nowhere.
        tell: Called after each step, in the main process, with the steps done and the losses.
        keep: Writes the weights, as they are after some steps, in the main process, and says where.

    Raises:
        BadInput: The objective keeps its gradients, and they are float16.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        checkpoints: Checkpoints | None = None,
        tell: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
        keep: Callable[[int], Path] | None = None,
    ) -> None:
        if objective.keeps_gradients and accelerator.mixed_precision == "fp16":
            # They are unscaled in place in each step, those of all steps before once more.
            raise BadInput("accumulate_grads=true needs mixed_precision=bf16 or no; fp16 would shrink what it adds up.")
        self.step, self.seconds, self.finished = 0, 0.0, False
        self.losses: dict[str, float] = {}
        self._accelerator, self._objective, self._checkpoints, self._tell = accelerator, objective, checkpoints, tell
        self._good = LastGood(objective.weights, keep) if keep and accelerator.is_main_process else None
        self._optimizer = objective.optimizer()
        self._module: Any = accelerator.prepare_model(_Step(objective), device_placement=False)
        self._stepper = accelerator.prepare_optimizer(self._optimizer, device_placement=False)
        processes = accelerator.num_processes
        self._slots = range(accelerator.process_index, processes * accelerator.gradient_accumulation_steps, processes)

    def run(self) -> None:
        """Train, from the last checkpoint on if there is one.

        Raises:
            BadInput: The loss, or a weight, is no longer finite; the last weights whose loss was finite are kept.
            KeyboardInterrupt: After a checkpoint of the last whole step.
        """
        self._restore()
        try:
            while self.step < self._objective.iterations and not self.finished:
                started = time.perf_counter()
                with torch.no_grad(), self._accelerator.autocast():
                    batches = [self._objective.batch(slot, self.step) for slot in self._slots]
                with _uninterrupted():
                    wanted = self._advance(batches)
                    self.seconds += time.perf_counter() - started
                    self._report()
                if wanted:
                    self._save()
        except KeyboardInterrupt:
            if self._accelerator.num_processes == 1:  # the others may not come to where their state is gathered
                self._save()
            raise
        self._save()

    def _advance(self, batches: Sequence[Batch]) -> bool:
        """Do one step; whether it is time for a checkpoint, which all processes agree about."""
        accelerator, checkpoints = self._accelerator, self._checkpoints
        losses = [self._learn(batch) for batch in batches]
        due = checkpoints is not None and accelerator.is_main_process and checkpoints.due()
        values = torch.stack([torch.stack([value.float() for value in each.values()]) for each in losses]).mean(0)
        told: Any = accelerator.reduce(torch.cat([values, values.new_tensor([float(due)])]), "mean")
        *means, agreed = told.tolist()
        if not all(map(math.isfinite, means)):
            raise self._diverged(f"the loss of step {self.step + 1}")
        if self._good is not None:
            self._good.saw(self.step)
        self._stepper.step()
        if not self._objective.keeps_gradients:
            self._stepper.zero_grad()
        self.step += 1
        self.losses = dict(zip(losses[0], means, strict=True))
        self.finished = self._objective.finished(self.step, self.losses)
        return agreed > 0

    def _learn(self, batch: Batch) -> Losses:
        accelerator = self._accelerator
        with accelerator.accumulate(self._module):
            losses: Losses = self._module(batch)
            accelerator.backward(losses["loss"])
            if accelerator.sync_gradients and self._objective.clip_norm is not None:
                accelerator.clip_grad_norm_(self._module.parameters(), self._objective.clip_norm)
        return {name: value.detach() for name, value in losses.items()}

    def _report(self) -> None:
        if not self._accelerator.is_main_process:
            return
        if self._checkpoints is not None:
            self._checkpoints.log({"step": self.step, **self.losses, "seconds": round(self.seconds, 3)})
        self._tell(self.step, self.losses)

    def _save(self) -> None:
        weights = self._objective.weights
        if not all(bool(tensor.isfinite().all()) for tensor in weights.parameters()):
            raise self._diverged(f"a weight after step {self.step}")
        if self._checkpoints is None:
            return
        own = state.gathered(self._objective.state())
        if self._accelerator.is_main_process:
            scaler = self._accelerator.scaler
            header = {
                "step": self.step,
                "seconds": self.seconds,
                "finished": self.finished,
                "losses": self.losses,
                "scaler": scaler.state_dict() if scaler else None,
            }
            tensors = state.packed(weights, self._optimizer, self._objective.keeps_gradients)
            self._checkpoints.write(header, {**tensors, **own})

    def _restore(self) -> None:
        found = self._checkpoints.read() if self._checkpoints is not None else None
        if found is not None:
            header, tensors = found
            self.step, self.seconds, self.finished = header["step"], header["seconds"], header["finished"]
            self.losses = header["losses"]
            if self._accelerator.scaler is not None:
                self._accelerator.scaler.load_state_dict(header["scaler"])
            own = state.unpacked(tensors, self._objective.weights, self._optimizer)
            self._objective.restore(own, self._slots)
        if self._checkpoints is not None and self._accelerator.is_main_process:
            self._checkpoints.forget_after(self.step)
        self._accelerator.wait_for_everyone()

    def _diverged(self, what: str) -> BadInput:
        rate = max(group["lr"] for group in self._optimizer.param_groups)
        kept = self._good.write() if self._good is not None else ""
        return BadInput(
            f"The training diverged: {what} is not finite; a learning rate below {rate:g} may mend that.{kept}"
        )


@contextmanager
def _uninterrupted() -> Generator[None, None, None]:
    """Ctrl-C waits until the block is done: it would leave an optimiser that has stepped half its tensors."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


# The last trained tensors that are known to be of use, for when a training diverges.


#: A copy is made when the last one is this many times as old as it took to make.
_SHARE = 20.0


class LastGood:
    """Copies of weights at which the loss was finite: weights that are finite themselves may be far too large.

    They are held in the memory of the CPU, and replaced as often as costs next to nothing.

    Args:
        weights: Of what.
        keep: Writes the weights as they are after some steps, and says where.
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
