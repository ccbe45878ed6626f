"""The folder of a training: one checkpoint a component, from which it is taken up again bit for bit, its log, and
erasers kept on the way.

A checkpoint is a safetensors file, written whole or not at all; its header says of which work it is. It is written when
the last one is old: at least half a minute, and at least twenty times as long as writing took.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from efface.errors import BadFile
from efface.files import atomic

if TYPE_CHECKING:
    from efface.methods.training.weights import Weights


_KEY = "efface"
_SUFFIX = ".checkpoint.safetensors"
_SNAPSHOT = re.compile(r"component-(\d+)-step-(\d+)\.safetensors")


class Checkpoints:
    """What is kept of one component.

    Args:
        folder: Made when something is first written.
        index: The component's; they are trained in order.
        facts: What determines the outcome, as JSON values; a checkpoint of other facts is not taken up.
        force: Drop a checkpoint of other facts instead of refusing it.
        last: Whether no component comes after it.
    """

    #: Between two checkpoints, at least: seconds, and how often what writing the last one took.
    seconds, share = 30.0, 20.0

    def __init__(
        self, folder: Path, index: int, facts: Mapping[str, Any], force: bool = False, last: bool = True
    ) -> None:
        name = f"component-{index}"
        self.folder, self._index, self._last = folder, index, last
        self.path = folder / f"{name}{_SUFFIX}"
        self.lines = folder / f"{name}.jsonl"
        self._force = force
        self._facts: dict[str, Any] = json.loads(json.dumps(facts))
        self._written, self._took = time.monotonic(), 0.0

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The last checkpoint's header and tensors, if there is one.

        Raises:
            BadFile: It is damaged, or of other work and `force` is false.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                header: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
                if header["facts"] == self._facts:
                    return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise BadFile(f"The checkpoint {self.path} is damaged ({error}); remove it to train anew.") from error
        if not self._force:
            raise BadFile(
                f"{self.folder} holds an unfinished training of something else; choose another -o, or pass --force "
                "to drop it."
            )
        return None

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._written >= max(self.seconds, self.share * self._took)

    def write(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace the checkpoint.

        Raises:
            BadFile: It cannot be written; the one before stays.
        """
        started = time.monotonic()
        self._make_folder()
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with atomic(self.path) as temporary:
            try:
                save_file(content, temporary, metadata={_KEY: json.dumps({**header, "facts": self._facts})})
            except SafetensorError as error:
                raise BadFile(f"Cannot write {self.path}: {error}.") from error
        self._written = time.monotonic()
        self._took = self._written - started

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        self._make_folder()
        try:
            with self.lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise BadFile(f"Cannot write {self.lines}: {error.strerror}.") from error

    def snapshot(self, step: int) -> Path:
        """Where the eraser as it is after so many steps is kept."""
        return self.folder / f"component-{self._index}-step-{step}.safetensors"

    def forget_after(self, step: int) -> None:
        """Drop what an earlier run left that this one, taken up after so many steps, will write again, or will not.

        That is the log's lines and the erasers of later steps, the erasers of components that this run has not, and, as
        it starts, of those that it will come to, unless a checkpoint says that they can be gone on with.
        """
        if self.lines.is_file():
            lines = self.lines.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            with atomic(self.lines) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
        for path in self.folder.glob("component-*.safetensors"):
            if found := _SNAPSHOT.fullmatch(path.name):
                component, at = map(int, found.groups())
                goes_on = not self._force and (self.folder / f"component-{component}{_SUFFIX}").is_file()
                is_stale = self._last or (step == 0 and not goes_on)
                if (component > self._index and is_stale) or (component == self._index and at > step):
                    path.unlink()

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadFile(f"Cannot write to {self.folder}: {error.strerror}.") from error


def discard(folder: Path) -> None:
    """Remove the checkpoints of a training whose eraser is safe; what else the folder holds stays."""
    for path in folder.glob(f"*{_SUFFIX}"):
        path.unlink()


# Weights and optimiser as named tensors, and back; nothing is pickled to disk.


_WEIGHT, _GRADIENT, _OPTIMIZER, _OWN = "weight.", "gradient.", "optimizer.", "own."


def packed(weights: Weights, optimizer: torch.optim.Optimizer, gradients: bool) -> dict[str, Tensor]:
    """All that the next step depends on: weights, what the optimiser remembers of them, and, if wanted, gradients."""
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
    """Put `packed` tensors back where they were; gives those that the objective keeps itself."""
    weights.load_state_dict(_under(_WEIGHT, tensors))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in _under(_OPTIMIZER, tensors).items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        # What has a parameter's shape lies where it lies, and in its order of memory; counters stay as they were saved.
        like = value.ndim > 0 and value.shape == parameter.shape
        optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(value) if like else value
    named = dict(weights.named_parameters())
    for name, value in _under(_GRADIENT, tensors).items():
        named[name].grad = torch.empty_like(named[name]).copy_(value)
    return _under(_OWN, tensors)


def gathered(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An objective's own tensors, of all processes together."""
    from accelerate.utils import gather_object

    parts = gather_object([{_OWN + name: tensor.cpu() for name, tensor in own.items()}])
    return {name: tensor for part in parts for name, tensor in part.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
