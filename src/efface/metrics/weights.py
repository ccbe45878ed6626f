"""Weights files that a user gives: tensors by name, and nothing that could run."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from efface.errors import BadFile


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a torch checkpoint opened with weights_only.

    Raises:
        BadFile: The file is missing, damaged, or holds anything but tensors by name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadFile(f"Cannot read weights from {path}: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadFile(f"{path} does not hold weights by name; give a state dict.")
    return state


def fill(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Put weights into a module: all that it has, and no other shape.

    Raises:
        BadFile: One is missing or does not fit; the message names it.
    """
    for name, own in module.state_dict().items():
        # Older files lack the counters of batch normalisation, which inference does not read.
        if name not in state and not name.endswith("num_batches_tracked"):
            raise BadFile(f"{source} lacks '{name}'; give the weights that the documentation names.")
        if name in state and state[name].shape != own.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(own.shape)}"
            raise BadFile(f"{source} has '{name}' of shape {shapes}; give the weights that the documentation names.")
    module.load_state_dict({name: state[name] for name in module.state_dict() if name in state}, strict=False)
