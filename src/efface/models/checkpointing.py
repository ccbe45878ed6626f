"""Gradient checkpointing: the layers of a denoiser run again in the backward pass instead of storing activations.

A layer runs again with the parameters and adapters of the forward pass, so that they can differ in each call of the
denoiser (`efface.models.parameters`), and several calls can come before one backward pass.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from efface.errors import BadInput
from efface.models.parameters import call_with, parameters_in_use

_ENABLED, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"


@contextmanager
def checkpointed(denoiser: nn.Module, enabled: bool = True) -> Generator[None, None, None]:
    """A context in which a denoiser of diffusers checkpoints its gradients.

    A denoiser whose owner has enabled checkpointing does so in any case.

    Args:
        denoiser: The denoiser.
        enabled: Whether to checkpoint.

    Raises:
        BadInput: The denoiser does not support it.
    """
    layers: list[Any] = [module for module in denoiser.modules() if hasattr(module, _ENABLED)]
    if enabled and not layers:
        raise BadInput(
            f"A {type(denoiser).__name__} does not support gradient checkpointing; leave gradient_checkpointing out."
        )
    before = [(layer, getattr(layer, _ENABLED), vars(layer).get(_FUNCTION)) for layer in layers]
    for layer, was_enabled, _ in before:
        layer.gradient_checkpointing = enabled or was_enabled
        layer._gradient_checkpointing_func = _run_twice
    try:
        yield
    finally:
        for layer, was_enabled, function in before:
            layer.gradient_checkpointing = was_enabled
            delattr(layer, _FUNCTION)
            if function is not None:
                setattr(layer, _FUNCTION, function)


def _run_twice(layer: nn.Module, *arguments: Any) -> Any:
    """The output of a layer, which is computed again in the backward pass with the parameters of now."""
    parameters = parameters_in_use(layer)

    def run(*inputs: Any) -> Any:
        return call_with(layer, parameters, inputs)

    # The denoiser is in evaluation mode: it draws no random numbers.
    return checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False)
