"""Where a training stands: weights, AdamW's moments and the epoch, in one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadFile
from efface.files import atomic

if TYPE_CHECKING:
    import torch
    from torch import nn

_MODEL, _MOMENTS = "model.", "optimizer."


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, work: str) -> None:
    """Write the state after an epoch.

    Args:
        path: Where.
        model: With its weights and buffers.
        optimizer: With its moments.
        epoch: How many epochs are done.
        work: What is being done; only the same work takes the state up again.
    """
    from safetensors.torch import save_file

    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{_MOMENTS}{index}.{name}": tensor for name, tensor in moments.items()}
    with atomic(path) as temporary:
        content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(content, temporary, {"epoch": str(epoch), "work": work})


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, work: str) -> int:
    """Take up what `save_state` wrote of the same work, and say how many epochs are done: 0 if there is none.

    Raises:
        BadFile: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("work") != work:
                return 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise BadFile(f"Cannot take up the training in {path}: {error}; delete the file to start again.") from error
    model.load_state_dict({name.removeprefix(_MODEL): t for name, t in tensors.items() if name.startswith(_MODEL)})
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_MOMENTS):
            index, _, moment = name.removeprefix(_MOMENTS).partition(".")
            state.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(header["epoch"])
