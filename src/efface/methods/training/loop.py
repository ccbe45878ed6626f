"""The training loop of all trained methods.

An optimiser step takes one batch of each *slot*. The number of slots is the number of processes times the number of
accumulated batches. Slot s belongs to process s mod P, and its batches depend only on the slot and the step, so that
two processes give the same result as one process with two accumulated batches. All randomness comes from generators
seeded by slot and step (`objective.seeded`). So weights, optimiser and the objective's state are all that a checkpoint
needs for a bitwise identical continuation.

If the loss is no longer finite, the last weights at which it was finite are written (`LastFiniteWeights`).
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
from efface.parsing import library_errors

if TYPE_CHECKING:
    from accelerate import Accelerator

    from efface.methods.training.weights import Weights


class _Step(nn.Module):
    """The module that accelerate prepares: it computes one loss, and its parameters are exactly the trained tensors."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.weights = objective.weights
        self._loss = objective.loss

    def forward(self, batch: Batch) -> Losses:
        return self._loss(batch)


class Training:
    """Trains one objective for all its steps, or until it is finished.

    Args:
        accelerator: The accelerator.
        objective: The objective.
        checkpoints: The checkpoints and the log; None to write none.
        report: Called after each step, in the main process, with the number of steps and the losses.
        save_eraser: Writes the weights after the given number of steps, in the main process, and returns the path.

    Raises:
        BadInput: The objective accumulates its gradients over steps, and they are float16.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        checkpoints: Checkpoints | None = None,
        report: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
        save_eraser: Callable[[int], Path] | None = None,
    ) -> None:
        if objective.keeps_gradients and accelerator.mixed_precision == "fp16":
            # Each step unscales the gradients in place, those of earlier steps again.
            raise BadInput(
                "accumulate_grads=true needs mixed_precision=bf16 or no; fp16 would shrink the summed gradients."
            )
        self.step, self.seconds, self.finished = 0, 0.0, False
        self.losses: dict[str, float] = {}
        self._accelerator, self._objective, self._checkpoints = accelerator, objective, checkpoints
        self._on_step = report
        self._last_finite = (
            LastFiniteWeights(objective.weights, save_eraser) if save_eraser and accelerator.is_main_process else None
        )
        self._optimizer = objective.optimizer()
        self._module: Any = accelerator.prepare_model(_Step(objective), device_placement=False)
        self._stepper = accelerator.prepare_optimizer(self._optimizer, device_placement=False)
        processes = accelerator.num_processes
        self._slots = range(accelerator.process_index, processes * accelerator.gradient_accumulation_steps, processes)

    def run(self) -> None:
        """Train, starting from the last checkpoint if there is one.

        Raises:
            BadInput: The loss or a weight is no longer finite; the last weights with a finite loss are written.
            KeyboardInterrupt: The user interrupted the training; the last complete step is in the checkpoint.
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
            if self._accelerator.num_processes == 1:  # else gathering the states could wait for ever
                self._save()
            raise
        self._save()

    def _advance(self, batches: Sequence[Batch]) -> bool:
        """Do one step, and return whether a checkpoint is due, which is the same for all processes."""
        accelerator, checkpoints = self._accelerator, self._checkpoints
        losses = [self._learn(batch) for batch in batches]
        due = checkpoints is not None and accelerator.is_main_process and checkpoints.due()
        values = torch.stack([torch.stack([value.float() for value in each.values()]) for each in losses]).mean(0)
        reduced: Any = accelerator.reduce(torch.cat([values, values.new_tensor([float(due)])]), "mean")
        *means, agreed = reduced.tolist()
        if not all(map(math.isfinite, means)):
            raise self._diverged(f"the loss of step {self.step + 1}")
        if self._last_finite is not None:
            self._last_finite.update(self.step)
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
        self._on_step(self.step, self.losses)

    def _save(self) -> None:
        weights = self._objective.weights
        if not all(bool(tensor.isfinite().all()) for tensor in weights.parameters()):
            raise self._diverged(f"a weight after step {self.step}")
        if self._checkpoints is None:
            return
        of_objective = state.gathered(self._objective.state())
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
            self._checkpoints.write(header, {**tensors, **of_objective})

    def _restore(self) -> None:
        checkpoint = self._checkpoints.read() if self._checkpoints is not None else None
        if checkpoint is not None:
            header, tensors = checkpoint
            with library_errors("The checkpoint does not fit this training; remove it to start again"):
                self._resume(header, tensors)
        if self._checkpoints is not None and self._accelerator.is_main_process:
            self._checkpoints.forget_after(self.step)
        self._accelerator.wait_for_everyone()

    def _resume(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.step, self.seconds, self.finished = header["step"], header["seconds"], header["finished"]
        self.losses = header["losses"]
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(header["scaler"])
        of_objective = state.unpacked(tensors, self._objective.weights, self._optimizer)
        self._objective.restore(of_objective, self._slots)

    def _diverged(self, what: str) -> BadInput:
        rate = max(group["lr"] for group in self._optimizer.param_groups)
        written = self._last_finite.write() if self._last_finite is not None else ""
        return BadInput(f"The training diverged: {what} is not finite; try a learning rate below {rate:g}.{written}")


@contextmanager
def _uninterrupted() -> Generator[None, None, None]:
    """Delay Ctrl-C until the block is done, since an interrupted optimiser has updated only some tensors."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if signals:
        raise KeyboardInterrupt


#: A copy is replaced when its age is this many times the time that copying took.
_SHARE = 20.0


class LastFiniteWeights:
    """A copy of the last weights at which the loss was finite, for a training that diverges.

    The loss decides, since weights that are finite may still be far too large. The copy is in the memory of the CPU,
    and it is replaced rarely enough that the copying costs little time.

    Args:
        weights: The trained weights.
        save_eraser: Writes the weights after the given number of steps, and returns the path.
    """

    def __init__(self, weights: Weights, save_eraser: Callable[[int], Path]) -> None:
        self._weights, self._save_eraser = weights, save_eraser
        self._tensors: dict[str, Tensor] = {}
        self._step, self._copied, self._took = 0, float("-inf"), 0.0

    def update(self, step: int) -> None:
        """Copy the weights after `step` steps, at which the loss was finite, if the last copy is old.

        At step 0 the weights are those of the base, which need no copy.
        """
        started = time.perf_counter()
        if step == 0 or started - self._copied < _SHARE * self._took:
            return
        self._tensors = {name: tensor.to("cpu", copy=True) for name, tensor in self._weights.state_dict().items()}
        self._step, self._copied = step, time.perf_counter()
        self._took = self._copied - started

    def write(self) -> str:
        """Restore the copy and write the eraser; return a sentence with its path, or "" if there is no copy."""
        if not self._tensors:
            return ""
        self._weights.load_state_dict(self._tensors)
        return f" The eraser after {self._step} steps, whose loss was still finite, is {self._save_eraser(self._step)}."
