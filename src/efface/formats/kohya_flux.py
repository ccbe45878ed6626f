"""kohya's names for FLUX.1, which ComfyUI, Forge and sd-scripts read.

    lora_unet_double_blocks_0_img_attn_qkv.{lora_down, lora_up}.weight, .alpha

A layer of these names joins several of diffusers' (`flux_names`). Its change is exact: `up` is block-diagonal, and
`down` has the factors below each other, with zeros for layers without a change. Equal factors `down` are stored once.

    up = [[B_q, 0, 0], [0, B_k, 0], [0, 0, B_v]]    down = [A_q; A_k; A_v]    alpha = rank = 3 r

diffusers ignores these names outside the blocks, and reads only its own if a file has some. A file for such layers
(those that read the text) therefore has both names; ComfyUI assigns both to one weight, once. Such a file cannot change
text encoders too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from efface.errors import BadInput
from efface.formats.flux_names import Layer, flux_layers
from efface.formats.names import kohya_name

if TYPE_CHECKING:
    from efface.formats.low_rank import Factors

_BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")


def flux_tensors(denoiser: nn.Module, factors: Sequence[Factors]) -> dict[str, Tensor]:
    """The content of a file with kohya's names.

    Args:
        denoiser: A transformer of FLUX.1's architecture, with or without weights.
        factors: The changes, all of one rank.

    Raises:
        BadInput: A changed layer has no such name, or no file can hold the changes for diffusers and ComfyUI.
    """
    tensors: dict[str, Tensor] = {}
    for of_module in factors:
        if of_module.part != "denoiser":
            _add(tensors, kohya_name(of_module.part, of_module.module, two_encoders=True), *of_module.tensors())
    changes = {of_module.module: of_module for of_module in factors if of_module.part == "denoiser"}
    linear = {name: module for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)}
    layers = {name: layer for name, layer in flux_layers(linear).items() if changes.keys() & set(layer.modules)}
    unnamed = changes.keys() - {module for layer in layers.values() for module in layer.modules}
    if unnamed:
        raise BadInput(f"kohya's files for FLUX.1 have no name for {min(unnamed)}; export the eraser as lora.")
    for name, layer in layers.items():
        _add(tensors, kohya_name("denoiser", name, two_encoders=True), *_joined(layer, changes, linear))
    return tensors | _names_of_diffusers(changes, layers, has_encoders=len(changes) < len(factors))


def _names_of_diffusers(
    changes: Mapping[str, Factors], layers: Mapping[str, Layer], has_encoders: bool
) -> dict[str, Tensor]:
    """The changes by diffusers' names, if one is outside the blocks."""
    outside = [module for module in changes if not module.startswith(_BLOCKS)]
    if not outside:
        return {}
    if any(len(layer.modules) > 1 or layer.is_swapped for layer in layers.values()):
        raise BadInput(
            f"diffusers ignores kohya's name of {outside[0]}, and ComfyUI would count the other layers twice with a "
            "second name; export the eraser as lora, which both read."
        )
    if has_encoders:
        raise BadInput(
            f"diffusers ignores kohya's name of {min(outside)}, and those of text encoders in a file with its own name "
            "of that layer; export the eraser as lora."
        )
    return {
        f"transformer.{module}.lora_{letter}.weight": tensor
        for module, of_module in changes.items()
        for letter, tensor in zip("AB", of_module.tensors(), strict=True)
    }


def _joined(layer: Layer, changes: Mapping[str, Factors], linear: Mapping[str, nn.Linear]) -> tuple[Tensor, Tensor]:
    """The factors down (k r, d_in) and up (d_out, k r) of a layer of k modules; r if these share `down`."""
    parts = [changes.get(module) for module in layer.modules]
    given = [of_module for of_module in parts if of_module is not None]
    if len(given) == len(parts) and all(torch.equal(of_module.down, given[0].down) for of_module in given):
        down, up = given[0].down, torch.cat([of_module.up for of_module in given])
    else:
        none = torch.zeros_like(given[0].down)
        down = torch.cat([none if of_module is None else of_module.down for of_module in parts])
        up = torch.block_diag(*(
            torch.zeros(linear[module].out_features, len(none)) if of_module is None else of_module.up
            for module, of_module in zip(layer.modules, parts, strict=True)
        ))  # fmt: skip
    return down, torch.cat(up.chunk(2)[::-1]) if layer.is_swapped else up


def _add(tensors: dict[str, Tensor], name: str, down: Tensor, up: Tensor) -> None:
    tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
    tensors[f"{name}.alpha"] = torch.tensor(float(len(down)))
