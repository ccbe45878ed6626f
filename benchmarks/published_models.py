"""The configurations of published models, for folders without weights and for models with random weights.

`write_configs` writes a diffusers folder of configurations, from which `efface.plan` computes sizes and memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Config = dict[str, Any]

_CLIP_L: Config = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "vocab_size": 49408, "max_position_embeddings": 77, "projection_dim": 768,
}  # fmt: skip
_CLIP_G: Config = {
    **_CLIP_L, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280,
}  # fmt: skip
_T5: Config = {
    "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64, "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_VAE: Config = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
_VAE_16: Config = {
    **_VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}  # fmt: skip
_SD: Config = {
    "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
    "attention_head_dim": 8,
}  # fmt: skip
_SDXL: Config = {
    "sample_size": 128, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
_SD35_MEDIUM: Config = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
    "dual_attention_layers": list(range(13)),
}  # fmt: skip
_SD35_LARGE: Config = {
    **_SD35_MEDIUM, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
    "pos_embed_max_size": 192, "dual_attention_layers": [],
}  # fmt: skip
_FLUX: Config = {
    "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
    "axes_dims_rope": [16, 56, 56],
}  # fmt: skip
_BETAS: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

_ONE_CLIP = {"text_encoder": ("CLIPTextModel", _CLIP_L)}
_THREE_ENCODERS = {
    "text_encoder": ("CLIPTextModelWithProjection", _CLIP_L),
    "text_encoder_2": ("CLIPTextModelWithProjection", _CLIP_G),
    "text_encoder_3": ("T5EncoderModel", _T5),
}
_FLUX_ENCODERS = {"text_encoder": ("CLIPTextModel", _CLIP_L), "text_encoder_2": ("T5EncoderModel", _T5)}
#: By name: the pipeline, and the class and configuration of each part.
MODELS: dict[str, tuple[str, dict[str, tuple[str, Config]]]] = {
    "Stable Diffusion 1.4": (
        "StableDiffusionPipeline",
        {
            **_ONE_CLIP,
            "unet": ("UNet2DConditionModel", _SD),
            "vae": ("AutoencoderKL", _VAE),
            "scheduler": ("DDIMScheduler", {**_BETAS, "clip_sample": False, "steps_offset": 1}),
        },
    ),
    "SDXL": (
        "StableDiffusionXLPipeline",
        {
            "text_encoder": ("CLIPTextModel", _CLIP_L),
            "text_encoder_2": ("CLIPTextModelWithProjection", _CLIP_G),
            "unet": ("UNet2DConditionModel", _SDXL),
            "vae": ("AutoencoderKL", _VAE),
            "scheduler": ("EulerDiscreteScheduler", _BETAS),
        },
    ),
    "SD3.5 medium": (
        "StableDiffusion3Pipeline",
        {
            **_THREE_ENCODERS,
            "transformer": ("SD3Transformer2DModel", _SD35_MEDIUM),
            "vae": ("AutoencoderKL", _VAE_16),
            "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        },
    ),
    "SD3.5 large": (
        "StableDiffusion3Pipeline",
        {
            **_THREE_ENCODERS,
            "transformer": ("SD3Transformer2DModel", _SD35_LARGE),
            "vae": ("AutoencoderKL", _VAE_16),
            "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        },
    ),
    "FLUX.1 schnell": (
        "FluxPipeline",
        {
            **_FLUX_ENCODERS,
            "transformer": ("FluxTransformer2DModel", {**_FLUX, "guidance_embeds": False}),
            "vae": ("AutoencoderKL", _VAE_16),
            "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0}),
        },
    ),
    "FLUX.1 dev": (
        "FluxPipeline",
        {
            **_FLUX_ENCODERS,
            "transformer": ("FluxTransformer2DModel", {**_FLUX, "guidance_embeds": True}),
            "vae": ("AutoencoderKL", _VAE_16),
            "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_dynamic_shifting": True}),
        },
    ),
}


def write_configs(name: str, folder: Path) -> Path:
    """Write a diffusers folder with the configurations of a model and no weights.

    Args:
        name: The name of the model.
        folder: The folder, which is created.

    Returns:
        The folder.
    """
    pipeline, parts = MODELS[name]
    index: Config = {"_class_name": pipeline}
    for part, (kind, config) in parts.items():
        library = "transformers" if part.startswith("text_encoder") else "diffusers"
        index[part] = [library, kind]
        (folder / part).mkdir(parents=True)
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        own = {"architectures": [kind]} if library == "transformers" else {"_class_name": kind}
        (folder / part / file).write_text(json.dumps({**_defaults(library, kind), **own, **config}))
        if library == "transformers":
            tokenizer = "T5Tokenizer" if kind.startswith("T5") else "CLIPTokenizer"
            index[part.replace("text_encoder", "tokenizer")] = ["transformers", tokenizer]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _defaults(library: str, kind: str) -> Config:
    """The defaults of a class of diffusers, which its own configurations list in full."""
    if library == "transformers":
        return {"model_type": "t5" if kind.startswith("T5") else "clip_text_model"}
    import inspect

    import diffusers

    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
