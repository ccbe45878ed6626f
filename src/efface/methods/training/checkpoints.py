"""The folder of a training: a checkpoint and a log per component, and erasers of intermediate steps.

A training continues from its checkpoint with bitwise identical results. A checkpoint is a safetensors file, which is
written atomically. Its header records what the result depends on. A new checkpoint is written when the last one is at
least half a minute old, and at least twenty times as old as the writing took.

It contains the weights, the optimiser's state and the objective's state as named tensors (`packed`, `unpacked`);
nothing is pickled.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from efface.errors import FORCE, BadFile
from efface.files import atomic, read_text, why_not_written
from efface.json_writing import json_text
from efface.parsing import Schema, parse_json
from efface.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    from efface.methods.training.weights import Weights


_LOGGER = logging.getLogger("efface")
_SUFFIX = ".checkpoint.safetensors"
_SNAPSHOT = re.compile(r"component-(\d+)-step-(\d+)\.safetensors")


class CheckpointHeader(Schema):
    """The header of a checkpoint. The facts decide whether it is continued."""

    step: int = Field(ge=0)
    seconds: float = Field(ge=0)
    finished: bool
    losses: dict[str, float]
    scaler: dict[str, Any] | None
    facts: dict[str, Any]


class Checkpoints:
    """The files of one component.

    Args:
        folder: The folder, which is created by the first write.
        index: The position of the component in the order of training.
        facts: Everything that determines the result, as JSON values. A checkpoint with other facts is not continued.
        force: Whether to drop a checkpoint with other facts instead of refusing it.
        last: Whether this is the last component.
    """

    #: The least time between two checkpoints: in seconds, and as a multiple of the time that writing took.
    seconds, share = 30.0, 20.0

    def __init__(
        self, folder: Path, index: int, facts: Mapping[str, Any], force: bool = False, last: bool = True
    ) -> None:
        name = f"component-{index}"
        self.folder, self._index, self._last = folder, index, last
        self.path = folder / f"{name}{_SUFFIX}"
        self.lines = folder / f"{name}.jsonl"
        self._force = force
        self._facts: dict[str, Any] = json.loads(json_text(facts))
        self._written, self._took = time.monotonic(), 0.0

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Read the header and the tensors, of any shape, of the last checkpoint; None if there is none.

        A damaged checkpoint counts as none, which the log reports.

        Raises:
            BadFile: It has other facts and `force` is false.
        """
        if not self.path.is_file():
            return None
        try:
            content, tensors = read_sealed(self.path, "a checkpoint")
            header = CheckpointHeader.checked(content, f"The checkpoint {self.path}")
        except BadFile as error:
            _LOGGER.info("%s The training starts again.", error)
            return None
        if header.facts == self._facts:
            return content, tensors
        if not self._force:
            raise BadFile(
                f"{self.folder} holds an unfinished training of something else; choose another -o, or pass {FORCE} "
                "to drop it."
            )
        return None

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._written >= max(self.seconds, self.share * self._took)

    def write(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace the checkpoint.

        Raises:
            BadFile: The file cannot be written; the previous checkpoint stays.
        """
        started = time.monotonic()
        self._make_folder()
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_sealed(self.path, {**header, "facts": self._facts}, content)
        self._written = time.monotonic()
        self._took = self._written - started

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a line to the log.

        Raises:
            BadFile: The log cannot be written.
        """
        self._make_folder()
        try:
            with self.lines.open("a", encoding="utf-8") as file:
                file.write(json_text(row, ascii_only=True) + "\n")
        except OSError as error:
            raise BadFile(f"Cannot write {self.lines}: {why_not_written(error)}.") from error

    def snapshot(self, step: int) -> Path:
        """The path of the eraser after `step` steps."""
        return self.folder / f"component-{self._index}-step-{step}.safetensors"

    def forget_after(self, step: int) -> None:
        """Remove the outputs of an earlier run that are stale for a run that continues after `step` steps.

        These are the lines of the log and the erasers of later steps, and the erasers of components that this run does
        not have. At the start of a component, the erasers of later components are removed too, unless they have a
        checkpoint.
        """
        if self.lines.is_file():
            lines = read_text(self.lines, "the log of the training").splitlines(keepends=True)
            earlier = [line for line in lines if line.endswith("\n") and (at := _step(line)) is not None and at <= step]
            with atomic(self.lines) as temporary:
                temporary.write_text("".join(earlier), encoding="utf-8")
        for path in self.folder.glob("component-*.safetensors"):
            if match := _SNAPSHOT.fullmatch(path.name):
                component, at = map(int, match.groups())
                continues = not self._force and (self.folder / f"component-{component}{_SUFFIX}").is_file()
                is_stale = self._last or (step == 0 and not continues)
                if (component > self._index and is_stale) or (component == self._index and at > step):
                    path.unlink()

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadFile(f"Cannot write to {self.folder}: {why_not_written(error)}.") from error


def discard(folder: Path) -> None:
    """Remove the checkpoints of a training whose eraser is written. The log and intermediate erasers stay."""
    for path in folder.glob(f"*{_SUFFIX}"):
        path.unlink()


_WEIGHT, _GRADIENT, _OPTIMIZER, _OBJECTIVE = "weight.", "gradient.", "optimizer.", "own."


def packed(weights: Weights, optimizer: torch.optim.Optimizer, gradients: bool) -> dict[str, Tensor]:
    """The tensors that the next step depends on.

    Args:
        weights: The trained weights.
        optimizer: The optimiser, whose state is included.
        gradients: Whether to include the gradients.

    Returns:
        Tensors of any shape by name.
    """
    tensors = {_WEIGHT + name: tensor for name, tensor in weights.state_dict().items()}
    for index, remembered in optimizer.state_dict()["state"].items():
        for key, value in remembered.items():
            if value is not None:
                tensors[f"{_OPTIMIZER}{index}.{key}"] = torch.as_tensor(value)
    if gradients:
        named = weights.named_parameters()
        tensors |= {_GRADIENT + name: tensor.grad for name, tensor in named if tensor.grad is not None}
    return tensors


@torch.no_grad()
def unpacked(tensors: Mapping[str, Tensor], weights: Weights, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Restore the tensors of `packed`.

    Args:
        tensors: The tensors of a checkpoint, of any shape.
        weights: The trained weights, which are overwritten.
        optimizer: The optimiser, whose state is overwritten.

    Returns:
        The tensors of the objective's state.
    """
    weights.load_state_dict(_under(_WEIGHT, tensors))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in _under(_OPTIMIZER, tensors).items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        # Tensors with the parameter's shape get its device and memory format; counters stay as they were saved.
        like = value.ndim > 0 and value.shape == parameter.shape
        optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(value) if like else value
    named = dict(weights.named_parameters())
    for name, value in _under(_GRADIENT, tensors).items():
        named[name].grad = torch.empty_like(named[name]).copy_(value)
    return _under(_OBJECTIVE, tensors)


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an objective's state, of any shape, from all processes."""
    from accelerate.utils import gather_object

    parts = gather_object([{_OBJECTIVE + name: tensor.cpu() for name, tensor in tensors.items()}])
    return {name: tensor for part in parts for name, tensor in part.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _step(line: str) -> int | None:
    """The step of a line of the log; None for a damaged line."""
    try:
        step = parse_json(line)["step"]
    except (ValueError, TypeError, KeyError):
        return None
    return step if isinstance(step, int) else None
