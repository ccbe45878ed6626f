"""Stable Diffusion 1.4's sizes, for models of random weights."""

from typing import Any

TEXT: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


def special_tokens(tokenizer: Any) -> dict[str, Any]:
    """A text encoder's end of prompt, where the tokenizer is not its own."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
