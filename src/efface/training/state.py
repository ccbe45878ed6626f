"""Weights and optimiser as named tensors, and back; nothing is pickled to disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from efface.training.networks import Weights

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
