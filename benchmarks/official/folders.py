"""Tiny random models, in folders with the names that the official scripts open by default.

The scripts are run where these folders are, so that they find them instead of downloading models. A few properties of
the published models decide what the scripts compute, and the tiny ones have them: Stable Diffusion's PNDM scheduler,
SDXL's Euler scheduler, the shifts of FLUX's schedulers, FLUX.1's embedded guidance scale, and its pooled embedding of
768 numbers, by which UCE's script recognises it. An autoencoder of scale 64 makes the 1024 pixels that two scripts have
as a constant 16 x 16 latents; that of FLUX has the published scale 8, which its scripts have as a constant.

Weights by which the text acts are `_LOUDER` times as large as random ones: otherwise the predictions for two prompts
are so near each other that rounding would dominate ESD's loss, their difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from conftest import write_tiny_sd
from tiny_families import clip_parts, diffusers, t5_parts, tiny_flux2, tiny_sdxl

SD, SDXL = "CompVis/stable-diffusion-v1-4", "stabilityai/stable-diffusion-xl-base-1.0"
FLUX, FLUX2 = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.2-klein-base-4B"
_LOUDER = 5
_READERS = tuple(
    f"{name}.weight"
    for name in ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0", "context_embedder", "add_v_proj")
)
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def write_folders(work: Path) -> None:
    """Write the models that are not there yet."""
    with torch.random.fork_rng():
        for name, pipeline in _MAKERS.items():
            if not (work / name / "model_index.json").is_file():
                torch.manual_seed(0)
                _louder(pipeline(_parts(work))).save_pretrained(work / name)


def _parts(work: Path) -> Path:
    """The tiny Stable Diffusion of the tests, whose tokenizer all models share."""
    folder = work / "parts"
    return folder if folder.is_dir() else write_tiny_sd(folder)


def _louder(pipeline: Any) -> Any:
    denoiser = pipeline.components.get("unet") or pipeline.transformer
    for name, parameter in denoiser.named_parameters():
        if name.endswith(_READERS):
            parameter.data *= _LOUDER
    return pipeline


def _autoencoder(kind: str, blocks: int) -> dict[str, Any]:
    """An autoencoder with 2^(blocks - 1) pixels per latent."""
    return {
        "vae": getattr(diffusers, kind)(
            block_out_channels=(4,) * blocks, down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks, latent_channels=4, norm_num_groups=2, sample_size=16,
        )
    }  # fmt: skip


def _sd(parts: Path) -> Any:
    scheduler = diffusers.PNDMScheduler(**_BETAS, skip_prk_steps=True, steps_offset=1)
    changed = _autoencoder("AutoencoderKL", 7) | {"scheduler": scheduler}
    return diffusers.StableDiffusionPipeline.from_pretrained(parts, **changed)


def _sdxl(parts: Path) -> Any:
    pipeline = tiny_sdxl(parts)
    scheduler = diffusers.EulerDiscreteScheduler(**_BETAS, timestep_spacing="leading", steps_offset=1)
    pipeline.register_modules(**_autoencoder("AutoencoderKL", 7), scheduler=scheduler)
    return pipeline


def _flux(parts: Path) -> Any:
    (clip, tokenizer), (t5, tokenizer_2) = clip_parts(parts, 768), t5_parts(800)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=800, pooled_projection_dim=768, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return diffusers.FluxPipeline(
        scheduler=scheduler, text_encoder=clip, tokenizer=tokenizer, text_encoder_2=t5, tokenizer_2=tokenizer_2,
        transformer=transformer, **_autoencoder("AutoencoderKL", 4),
    )  # fmt: skip


def _flux2(parts: Path) -> Any:
    pipeline = tiny_flux2(parts)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipeline.register_modules(**_autoencoder("AutoencoderKLFlux2", 4), scheduler=scheduler)
    return pipeline


_MAKERS = {SD: _sd, SDXL: _sdxl, FLUX: _flux, FLUX2: _flux2}
