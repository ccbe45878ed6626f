"""The layers of a denoiser that a LoRA changes, by the names of LECO and of concept sliders.

LECO's `lierla` changes all linear layers and convolutions of the transformer blocks. That of the sliders changes the
linear layers of the attentions, and their `c3lier` also the convolutions and time projections between them.
`training_method` selects among them by the name of the attention. Deviation: LECO tests the name of the whole
transformer block, so that its xattn and selfattn train nothing.

A transformer with joint attention has no layers that read the text alone: all of its attention is cross-attention here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

from torch import nn

from efface.errors import BadRequest

_IN_BLOCK = re.compile(r"(^|_)(blocks|layers)\.\d+\.")  # the repeated blocks of a transformer
Network = Literal["attention", "transformer", "resnet"]
TrainingMethod = Literal["full", "xattn", "xattn-strict", "noxattn", "selfattn"]

_CONTAINERS: dict[Network, set[str]] = {
    "attention": {"Attention"},
    "transformer": {"Transformer2DModel"},
    "resnet": {"Attention", "ResnetBlock2D", "Downsample2D", "Upsample2D"},
}
_ATTENTION = ".att"  # "attn", or "attention" in Z-Image
_TEXT_MAPS = (".to_k", ".to_v")


def is_unet(denoiser: nn.Module) -> bool:
    """Whether a denoiser is a U-Net, and not a transformer."""
    return hasattr(denoiser, "down_blocks")


def trained_layers(denoiser: nn.Module, network: Network, training_method: TrainingMethod = "full") -> tuple[str, ...]:
    """The names of linear layers and convolutions.

    Args:
        denoiser: The U-Net or transformer.
        network: The kind of layers.
        training_method: Which of them.

    Raises:
        BadRequest: The denoiser has no such layer.
    """
    in_unet = is_unet(denoiser)
    layers = dict.fromkeys(_in_unet(denoiser, network) if in_unet else _in_transformer(denoiser, network))
    cross, itself = (".attn2.", ".attn1.") if in_unet else (_ATTENTION, _ATTENTION)
    wanted: dict[TrainingMethod, Callable[[str], bool]] = {
        "full": lambda name: True,
        "xattn": lambda name: cross in name,
        "xattn-strict": lambda name: cross in name and name.endswith(_TEXT_MAPS),
        "noxattn": lambda name: cross not in name,
        "selfattn": lambda name: itself in name,
    }
    chosen = tuple(name for name in layers if wanted[training_method](name))
    if not chosen:
        raise BadRequest(f"training_method={training_method} selects no layer of this model; choose another.")
    return chosen


def _in_unet(unet: nn.Module, network: Network) -> Iterator[str]:
    for name, module in unet.named_modules():
        if type(module).__name__ in _CONTAINERS[network]:
            yield from (f"{name}.{child}" for child, layer in module.named_modules() if _is_layer(layer))


def _in_transformer(transformer: nn.Module, network: Network) -> Iterator[str]:
    for name, layer in transformer.named_modules():
        if _is_layer(layer) and _IN_BLOCK.search(name) and (network == "transformer" or _ATTENTION in name):
            yield name


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)
