"""Parameter names of the original Stable Diffusion code (CompVis, and Stability's sgm), from those of diffusers.

The original code numbers all blocks consecutively: `input_blocks.4.1` is the first attention of the second down block.
Names inside an attention are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

DENOISER, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
OPEN_CLIP = "cond_stage_model.model."  # the text encoder of 2.x
# The text encoders of SDXL.
SDXL_TEXT, SDXL_OPEN_CLIP = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
OPEN_CLIPS = (OPEN_CLIP, SDXL_OPEN_CLIP)
EMA = "model_ema."
# Empty tensors in checkpoints of SDXL: the model predicts the velocity; its last noise level has no signal.
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"

_TRANSFORMERS = "text_model."  # prefix of names in some versions of transformers
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_INSIDE = {
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
}
_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
# OpenCLIP stores queries, keys and values in one tensor: `attn.in_proj_weight` and `_bias`.
_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.q_proj.": "attn.in_proj_",
    "self_attn.out_proj": "attn.out_proj",
    "final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """Original name of a parameter of a U-Net with this configuration."""
    return _renamed(name, unet_modules(config), {"resnets": _UNET_RESNET})


def vae_name(name: str, config: Mapping[str, Any]) -> str:
    """Original name of a parameter of an autoencoder with this configuration."""
    return _renamed(name, vae_modules(config), {"resnets": _VAE_RESNET, "attentions": _VAE_ATTENTION})


def original_tensors(
    tensors: Iterable[tuple[str, Tensor]], prefix: str, config: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a part, of any shape, with their original names and in their original shapes.

    Args:
        tensors: The tensors with their names in diffusers and transformers.
        prefix: The beginning of the original names, which states what the part is.
        config: The configuration of the part.
    """
    if prefix not in (DENOISER, VAE):
        yield from text_tensors(tensors, prefix)
        return
    for name, tensor in tensors:
        if prefix == DENOISER:
            yield prefix + unet_name(name, config), tensor
        else:
            yield prefix + vae_name(name, config), vae_tensor(name, tensor)


def vae_tensor(name: str, tensor: Tensor) -> Tensor:
    """The tensor in its original shape: attention weights (n, d) are 1 x 1 convolutions (n, d, 1, 1) there."""
    is_attention = ".attentions." in name and name.endswith(".weight") and tensor.ndim == 2
    return tensor[:, :, None, None] if is_attention else tensor


def text_tensors(tensors: Iterable[tuple[str, Tensor]], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a text encoder, such as (n, d), with their original names and in their original shapes.

    Args:
        tensors: The tensors with their names in transformers.
        prefix: The beginning of the original names, which are OpenCLIP's for those of `OPEN_CLIPS`.
    """
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors:
        flat = name.removeprefix(_TRANSFORMERS)
        if prefix not in OPEN_CLIPS:
            yield prefix + flat, tensor
            continue
        original, third = open_clip_name(flat, prefix)
        if third is None:
            yield original, open_clip_tensor(flat, tensor)
            continue
        parts = thirds.setdefault(original, {})
        parts[third] = tensor
        if len(parts) == 3:
            yield original, torch.cat([parts[k] for k in range(3)])
            del thirds[original]
    assert not thirds


def open_clip_tensor(name: str, tensor: Tensor) -> Tensor:
    """A text encoder's tensor in OpenCLIP's shape, or the reverse: OpenCLIP stores the projection (n, d) as (d, n)."""
    return tensor.T if name == "text_projection.weight" else tensor


def open_clip_name(name: str, prefix: str) -> tuple[str, int | None]:
    """OpenCLIP's name of a text encoder's parameter, and its third of that tensor if it is only a part.

    Args:
        name: The name in transformers, without `text_model.`.
        prefix: The beginning of the original names.
    """
    third = next((k for k, letter in enumerate("qkv") if f".{letter}_proj." in name), None)
    name = re.sub(r"\.[qkv]_proj\.", ".q_proj.", name)
    for ours, theirs in _OPEN_CLIP.items():
        name = name.replace(ours, theirs)
    return prefix + name, third


def ema_name(name: str) -> str:
    """Name of the exponential moving average of a U-Net parameter, given the original name of the parameter."""
    return EMA + f"diffusion_model.{name}".replace(".", "")


def unet_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Original names of a U-Net's modules, by their names in diffusers."""
    names, layers = dict(_UNET), int(config["layers_per_block"])
    blocks = len(config["block_out_channels"])
    for block in range(blocks):
        first = 1 + block * (layers + 1)
        for layer in range(layers):
            names[f"down_blocks.{block}.resnets.{layer}"] = f"input_blocks.{first + layer}.0"
            names[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{first + layer}.1"
        names[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{first + layers}.0.op"
    for block in range(blocks):
        first = block * (layers + 1)
        for layer in range(layers + 1):
            names[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks.{first + layer}.0"
            names[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{first + layer}.1"
        behind = 2 if "CrossAttn" in config["up_block_types"][block] else 1
        names[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{first + layers}.{behind}.conv"
    return names


def vae_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Original names of an autoencoder's modules, by their names in diffusers."""
    layers, blocks = int(config["layers_per_block"]), len(config["block_out_channels"])
    names = {
        f"{coder}.{ours}": f"{coder}.{theirs}"
        for coder in ("encoder", "decoder")
        for ours, theirs in _VAE_INSIDE.items()
    }
    for block in range(blocks):
        for layer in range(layers):
            names[f"encoder.down_blocks.{block}.resnets.{layer}"] = f"encoder.down.{block}.block.{layer}"
        names[f"encoder.down_blocks.{block}.downsamplers.0.conv"] = f"encoder.down.{block}.downsample.conv"
        up = blocks - 1 - block
        for layer in range(layers + 1):
            names[f"decoder.up_blocks.{block}.resnets.{layer}"] = f"decoder.up.{up}.block.{layer}"
        names[f"decoder.up_blocks.{block}.upsamplers.0.conv"] = f"decoder.up.{up}.upsample.conv"
    return names


def _renamed(name: str, modules: Mapping[str, str], inside: Mapping[str, Mapping[str, str]]) -> str:
    """A name with its longest known prefix renamed, and then the names inside that module."""
    words = name.split(".")
    for length in range(len(words), 0, -1):
        module, rest = ".".join(words[:length]), ".".join(words[length:])
        if module in modules:
            for kind, names in inside.items():
                if kind in words[:length]:
                    for ours, theirs in names.items():
                        if rest.startswith(f"{ours}."):
                            return f"{modules[module]}.{theirs}{rest.removeprefix(ours)}"
            return f"{modules[module]}.{rest}" if rest else modules[module]
    return name
