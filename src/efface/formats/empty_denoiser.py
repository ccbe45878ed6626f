"""A model's denoiser without weights: its modules, names and shapes in no memory, whatever the size of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from efface.models.modules import plain
from efface.models.pretrained import class_of

if TYPE_CHECKING:
    from efface.models import Model


def denoiser_class(model: Model) -> Any:
    """The class of the model's denoiser, which is not loaded for it."""
    return type(plain(model.denoiser)) if model.folder is None else class_of(model.files, model.denoiser_part)


def empty_denoiser(model: Model) -> nn.Module:
    """A denoiser of the model's class and configuration, whose weights are zeros that take no memory."""
    network: Any = plain(model.denoiser) if model.folder is None else None
    config = model.files.config(model.denoiser_part) if network is None else network.config
    return without_weights(denoiser_class(model), dict(config))


def without_weights(kind: Any, config: dict[str, Any]) -> nn.Module:
    """A network of a class of diffusers whose weights are zeros that take no memory.

    Args:
        kind: The class.
        config: Its configuration.
    """
    with torch.device("meta"):
        denoiser: nn.Module = kind.from_config(config)
    for module in denoiser.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # One number for all elements. Factors that are loaded beside weights on `meta` would be moved there.
            zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            setattr(module, name, nn.Parameter(zeros, requires_grad=False))
    return denoiser
