"""Transformers that normalise each token of their text before one linear map reads it.

    transformer    argument                 norm and map
    Qwen-Image     encoder_hidden_states    txt_norm, txt_in
    Lumina 2       encoder_hidden_states    time_caption_embed.caption_embedder.{0, 1}
    Z-Image        cap_feats, a list        cap_embedder.{0, 1}

A norm is not linear, so no change of weights equals a change of its input. The text stream of these models is therefore
the output of the norm: an edit acts on the input of the map, W (I + L R^T) norm(e) + b, and can be baked and exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class NormedText:
    """Where the text enters a transformer.

    Attributes:
        norm: The name of the norm.
        linear: The name of the linear map.
        argument: The name of the transformer's argument.
    """

    norm: str
    linear: str
    argument: str = "encoder_hidden_states"


NORMED_TEXTS: Mapping[str, NormedText] = {
    "QwenImageTransformer2DModel": NormedText("txt_norm", "txt_in"),
    "Lumina2Transformer2DModel": NormedText(
        "time_caption_embed.caption_embedder.0", "time_caption_embed.caption_embedder.1"
    ),
    "ZImageTransformer2DModel": NormedText("cap_embedder.0", "cap_embedder.1", "cap_feats"),
}


def normed(norm: Any, tokens: Tensor) -> Tensor:
    """Tokens (n, T, d) after a norm, in its type and on its device; float32 on the CPU."""
    weight: Tensor = norm.weight
    # A weight that is offloaded one layer at a time is on `meta`; its hook moves the tokens.
    tokens = tokens.to(weight.dtype) if weight.is_meta else tokens.to(weight)
    with torch.no_grad():
        return norm(tokens).float().cpu()
