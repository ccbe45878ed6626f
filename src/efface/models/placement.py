"""Whether the weights of a network are in memory, in a type that can be edited."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from efface.errors import BadInput

_EDITABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_in_memory(parts: Mapping[str, object]) -> None:
    """Check that all weights of networks are in memory.

    Args:
        parts: The networks by name; other objects are ignored.

    Raises:
        BadInput: A weight is offloaded, so that reading it gives nothing and writing it changes nothing.
    """
    for name, network in parts.items():
        if isinstance(network, nn.Module) and any(tensor.is_meta for tensor in network.parameters()):
            raise BadInput(
                f"The weights of {name} are not in memory (offloaded, or on the device meta); load the pipeline "
                "without device_map and sequential offload. enable_model_cpu_offload() is supported."
            )


def check_editable(name: str, weight: Tensor) -> None:
    """Check that a weight can be overwritten by numbers of its own type.

    Args:
        name: The weight's name, for messages.
        weight: The weight, of any shape.

    Raises:
        BadInput: The weight is not in memory, quantised, or of a type with too few bits.
    """
    if weight.is_meta:
        raise BadInput(f"The weight {name} is not in memory; load the pipeline without offloading to bake an eraser.")
    plain = type(weight) in (nn.Parameter, Tensor) and type(weight.data) is Tensor
    if not plain or weight.dtype not in _EDITABLE:
        kind = type(weight.data).__name__ if not plain else str(weight.dtype).removeprefix("torch.")
        raise BadInput(
            f"The weight {name} is quantised ({kind}) and cannot be edited; attach the eraser, or bake it before "
            "quantising."
        )
