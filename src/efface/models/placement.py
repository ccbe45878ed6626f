"""Whether the weights of a network are in memory, in a type that can be edited; the numbers of quantised weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from efface.errors import BadInput
from efface.parsing import library_errors

_EDITABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_in_memory(parts: Mapping[str, object]) -> None:
    """Check that all weights of networks are in memory, as parameters.

    Args:
        parts: The networks by name; other objects are ignored.

    Raises:
        BadInput: A weight is offloaded or packed, so that reading it gives nothing and writing it changes nothing.
    """
    for name, network in parts.items():
        for module in network.modules() if isinstance(network, nn.Module) else ():
            if any(tensor.is_meta for tensor in module.parameters(recurse=False)):
                raise BadInput(
                    f"The weights of {name} are not in memory (offloaded, or on the device meta); load the pipeline "
                    "without device_map and sequential offload. enable_model_cpu_offload() is supported."
                )
            if _group_on_disk(module):
                raise BadInput(
                    f"The weights of {name} are not in memory (groups of layers are offloaded to files); leave "
                    "offload_to_disk_path out."
                )
            if type(module).__module__.startswith("torch.ao.nn."):
                raise BadInput(
                    f"The weights of {name} are quantised by torch.ao, which packs them ({type(module).__name__}); "
                    "load the pipeline without that, or quantise it with torchao."
                )


def _group_on_disk(module: nn.Module) -> bool:
    """Whether diffusers offloads a module's group of layers to a file; its tensors in memory then have no values."""
    registry: Any = getattr(module, "_diffusers_hook", None)
    hook = None if registry is None else registry.hooks.get("group_offloading")
    return hook is not None and hook.group.offload_to_disk_path is not None


def is_quantised(weight: Tensor) -> bool:
    """Whether a weight, of any shape, is stored in fewer bits than half precision, or as another kind of tensor."""
    return not _is_plain(weight) or weight.dtype not in _EDITABLE


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
    if is_quantised(weight):
        raise BadInput(
            f"The weight {name} is quantised ({_kind(weight)}) and cannot be edited or exported; attach an eraser that "
            "edits the text, or use the model before it is quantised."
        )


def check_differentiable(name: str, network: nn.Module) -> None:
    """Check that gradients flow through a network: none of its weights is quantised.

    Args:
        name: The network's name, for messages.
        network: The network.

    Raises:
        BadInput: A weight is quantised.
    """
    for weight in network.parameters():
        if is_quantised(weight):
            raise BadInput(
                f"The weights of {name} are quantised ({_kind(weight)}), so the model cannot be trained; use the model "
                "before it is quantised (leave --quantize out)."
            )


def numbers_of(network: nn.Module, name: str) -> Tensor:
    """The numbers of a network's weight, whatever stores them.

    Args:
        network: The network.
        name: The name of the weight.

    Returns:
        The weight, (d_out, d_in) for a linear map: its own tensor, or a copy of quantised numbers.

    Raises:
        BadInput: The weight is quantised by a tool that is not supported.
    """
    weight = network.get_parameter(name)
    if not is_quantised(weight):
        return weight.detach()
    if _is_plain(weight) and weight.is_floating_point():
        return weight.detach().float()
    failure = f"The weight {name} is quantised ({_kind(weight)}), and its numbers cannot be read"
    kind = type(weight).__name__
    with library_errors(failure), torch.no_grad():
        if kind in ("Params4bit", "Int8Params"):
            return _of_bitsandbytes(weight, network.get_submodule(name.rpartition(".")[0]))
        if kind == "GGUFParameter":
            from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor  # pyright: ignore

            return torch.as_tensor(dequantize_gguf_tensor(weight)).float()
        numbers = dequantised(weight)
    if is_quantised(numbers):
        raise BadInput(f"{failure}.")
    return numbers


def dequantised(tensor: Tensor) -> Tensor:
    """The numbers of a tensor, of any shape, that torchao or quanto wraps; any other tensor is returned unchanged."""
    wrapper: Any = type(tensor)
    has_numbers = not _is_plain(tensor) and wrapper.dequantize is not Tensor.dequantize
    return wrapper.dequantize(tensor).detach() if has_numbers else tensor


def _of_bitsandbytes(weight: Any, layer: Any) -> Tensor:
    import bitsandbytes.functional as functional  # pyright: ignore

    if type(weight).__name__ == "Params4bit":
        return functional.dequantize_4bit(weight.data, weight.quant_state).float()
    scales = weight.SCB if weight.SCB is not None else layer.state.SCB  # the layer takes them when it first runs
    codes = weight.data if weight.CB is None else weight.CB
    return codes.float() * (scales.float()[:, None] / 127)


def _is_plain(weight: Tensor) -> bool:
    return type(weight) in (nn.Parameter, Tensor, nn.Buffer) and type(weight.data) is Tensor


def _kind(weight: Tensor) -> str:
    wrapper = type(weight) if type(weight) is not nn.Parameter else type(weight.data)
    return str(weight.dtype).removeprefix("torch.") if wrapper in (Tensor, nn.Parameter) else wrapper.__name__
