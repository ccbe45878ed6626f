"""The published configurations of U-Nets and autoencoders in the original code, with the widths of the tiny models.

ComfyUI and Forge find these settings by the shapes in a file, but then accept only the published widths. The scripts
therefore pass them.
"""

from __future__ import annotations

from typing import Any

_SHARED = {
    "in_channels": 4, "out_channels": 4, "model_channels": 32, "use_spatial_transformer": True, "num_heads": -1,
    "image_size": 32, "legacy": False, "use_checkpoint": False,
}  # fmt: skip
_FOUR_LEVELS = {
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1,
}  # fmt: skip
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        **_SHARED, **_FOUR_LEVELS, "context_dim": 16, "use_linear_in_transformer": False, "num_heads": 2,
        "num_head_channels": -1, "adm_in_channels": None,
    },
    "sd2": {
        **_SHARED, **_FOUR_LEVELS, "context_dim": 24, "use_linear_in_transformer": True, "num_head_channels": 16,
        "adm_in_channels": None,
    },
    "sdxl": {
        **_SHARED, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10, "context_dim": 40,
        "use_linear_in_transformer": True, "num_head_channels": 16, "adm_in_channels": 72,
        "num_classes": "sequential",
    },
}  # fmt: skip
# of the text encoders, in ComfyUI's names
ENCODERS = {
    "sd1": {"clip_l": {"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2}},
    "sd2": {"clip_h": {"hidden_size": 24, "intermediate_size": 96, "num_attention_heads": 2}},
    "sdxl": {
        "clip_l": {"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2},
        "clip_g": {"hidden_size": 24, "intermediate_size": 96, "num_attention_heads": 2},
    },
}
VAE = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    },
}  # fmt: skip
