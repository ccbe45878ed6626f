"""The metadata by which other programs recognise the base model of a LoRA file.

A1111 shows a file for SDXL if `ss_base_model_version` begins with "sdxl_", for SD 2.x if `ss_v2` is "True", and for
SD 1.x otherwise; that of FLUX.1 is "flux1". `modelspec.*` are the keys of Stability's convention
(https://github.com/Stability-AI/ModelSpec).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


def is_v2(model: Model) -> bool:
    """Whether a model is Stable Diffusion 2.x: its U-Net projects with linear layers, that of 1.x with convolutions."""
    return model.family == "sd" and bool(model.config(model.denoiser_part).get("use_linear_projection"))


def model_spec(eraser: Eraser, model: Model) -> dict[str, str]:
    """The metadata of a LoRA for a model; empty for a family that has no entry in the convention.

    Args:
        eraser: The eraser.
        model: Its model.
    """
    if model.family == "flux":
        name = "flux-1-dev" if model.config(model.denoiser_part).get("guidance_embeds") else "flux-1-schnell"
        spec = _spec(eraser, name, "https://github.com/black-forest-labs/flux", 1024)
        return {"ss_base_model_version": "flux1", **spec}
    if model.family not in ("sd", "sdxl"):
        return {}
    is_v = model.scheduler_config.get("prediction_type") == "v_prediction"
    of_v = "_v" if is_v else ""
    if model.family == "sdxl":
        version, architecture, side = "sdxl_base_v1-0", "stable-diffusion-xl-v1-base", 1024
    elif is_v2(model):
        version, side = f"sd_v2{of_v}", 768 if is_v else 512
        architecture = "stable-diffusion-v2-768-v" if is_v else "stable-diffusion-v2-512"
    else:
        version, architecture, side = f"sd_v1{of_v}", "stable-diffusion-v1", 512
    stability = "https://github.com/Stability-AI/generative-models"
    implementation = stability if model.family == "sdxl" else "diffusers"
    spec = _spec(eraser, architecture, implementation, side, "v" if is_v else "epsilon")
    return {"ss_base_model_version": version, "ss_v2": str(is_v2(model)), **spec}


def _spec(
    eraser: Eraser, architecture: str, implementation: str, side: int, prediction: str | None = None
) -> dict[str, str]:
    concepts = ", ".join(eraser.concepts)
    spec = {
        "sai_model_spec": "1.0.0",
        "architecture": f"{architecture}/lora",
        "implementation": implementation,
        "title": f"{concepts} erased by {eraser.method}",
        "description": f"Erases {concepts} at strength 1. Made by efface.",
        "resolution": f"{side}x{side}",
        "prediction_type": prediction,
        "usage_hint": "strength 1",
    }
    return {f"modelspec.{name}": value for name, value in spec.items() if value is not None}
