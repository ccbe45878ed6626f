"""The names of the weights by which a U-Net of diffusers reads its text, from its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MAPS = ("to_k", "to_v")


def cross_attention_maps(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The weights of keys and values in all cross-attention layers; empty if a setting is none that is known here.

    Args:
        config: The configuration of a `UNet2DConditionModel`.
    """
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    layers = _for_each(config["layers_per_block"], len(down))
    depths = _for_each(config.get("transformer_layers_per_block", 1), len(down))
    known = all(isinstance(value, int) for value in (*layers, *depths))
    if not known or config.get("reverse_transformer_layers_per_block") or len(up) != len(down):
        return ()
    attentions: list[tuple[str, int]] = []
    for block, kind in enumerate(down):
        if kind.startswith("CrossAttn"):
            attentions += [(f"down_blocks.{block}.attentions.{layer}", depths[block]) for layer in range(layers[block])]
    for block, kind in enumerate(up):
        if kind.startswith("CrossAttn"):
            depth, count = depths[-1 - block], layers[-1 - block] + 1
            attentions += [(f"up_blocks.{block}.attentions.{layer}", depth) for layer in range(count)]
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn":
        attentions.append(("mid_block.attentions.0", depths[-1]))
    return tuple(
        f"{attention}.transformer_blocks.{layer}.attn2.{name}.weight"
        for attention, depth in attentions
        for layer in range(depth)
        for name in _MAPS
    )


def _for_each(value: Any, blocks: int) -> Sequence[Any]:
    return [value] * blocks if isinstance(value, int) else list(value)
