"""Calls of a network with other parameters, which leave the network unchanged.

A tensor takes the place of one of the network's parameters (`torch.func.functional_call`). An adapter of low rank
(LoRA, arXiv 2106.09685) adds the output of two small layers to that of a layer with the weight W,

    y = W x + scale * up (down x),

so that no tensor of the size of W is made, and W is not read. It is a forward hook during the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import conv2d, linear


@dataclass(frozen=True, eq=False)
class Adapter:
    """Two layers of low rank beside a linear layer or a convolution: together they have the weight W + scale up @ down.

    They compute in the type of the layer's input, which the backward pass then needs in no second type. Autocast, which
    would round their float32 inputs, is off.

    Attributes:
        up: The second layer, (d_out, r).
        down: The first layer, (r, d_in); for a convolution, d_in is the channels of a group times the kernel.
        scale: A factor of their output.
    """

    up: Tensor
    down: Tensor
    scale: float

    def __call__(self, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The forward hook of the layer: its output with that of the two layers, of any shape, in the output's type."""
        x = arguments[0]
        up, down = (self.scale * self.up).to(x.dtype), self.down.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            change = _convolved(layer, x, up, down) if isinstance(layer, nn.Conv2d) else linear(linear(x, down), up)
            return output + change.to(output.dtype)


def _convolved(layer: nn.Conv2d, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The output of a convolution with the kernel `down` and of one of size 1; all groups of channels share `down`."""
    assert layer.padding_mode == "zeros"
    groups = x.unflatten(1, (layer.groups, -1)).flatten(0, 1)  # (b groups, channels of a group, h, w)
    kernel = down.view(len(down), -1, *layer.kernel_size)
    between = conv2d(groups, kernel, None, layer.stride, layer.padding, layer.dilation)
    between = between.unflatten(0, (len(x), -1)).flatten(1, 2)  # (b, groups r, h', w')
    return conv2d(between, up[:, :, None, None], groups=layer.groups)


#: Tensors by the names of parameters, and adapters by the names of layers.
Parameters = Mapping[str, Tensor | Adapter]


def call_with(
    network: nn.Module, parameters: Parameters, arguments: tuple[Any, ...], named: Mapping[str, Any] | None = None
) -> Any:
    """Call a network with other parameters; gradients flow to them.

    Args:
        network: The network.
        parameters: What differs from the network's own parameters; an adapter in use is not added twice.
        arguments: The arguments of the call.
        named: Its arguments by name.

    Returns:
        The network's output.
    """
    named = dict(named or {})
    tensors = {name: value for name, value in parameters.items() if isinstance(value, Tensor)}
    with ExitStack() as hooks:
        for name, adapter in parameters.items():
            if isinstance(adapter, Adapter) and adapter not in _adapters(layer := network.get_submodule(name)):
                # Before other hooks, which receive the output as if the weight had changed.
                hooks.enter_context(layer.register_forward_hook(adapter, prepend=True))
        if not tensors:
            return network(*arguments, **named)
        # A denoiser ties no weights; looking for tied ones would take as long as a small layer.
        return functional_call(network, tensors, arguments, named, tie_weights=False)


def parameters_in_use(network: nn.Module) -> Parameters:
    """The parameters that a part of a network has at this moment of a call, and the adapters of its layers."""
    adapters = {name: adapter for name, layer in network.named_modules() for adapter in _adapters(layer)}
    return {**dict(network.named_parameters()), **adapters}


def _adapters(layer: Any) -> Iterator[Adapter]:
    return (hook for hook in layer._forward_hooks.values() if isinstance(hook, Adapter))
