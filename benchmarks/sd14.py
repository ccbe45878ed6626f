"""The sizes of Stable Diffusion 1.4, for models with random weights."""

from __future__ import annotations

from typing import Any

TEXT: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


def special_tokens(tokenizer: Any) -> dict[str, Any]:
    """Configuration of a text encoder's special tokens for another tokenizer."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
