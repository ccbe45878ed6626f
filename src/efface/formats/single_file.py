"""A complete Stable Diffusion 1.x or 2.x checkpoint in one file with the eraser baked in, for web interfaces.

    model.diffusion_model.*  the U-Net        first_stage_model.*  the autoencoder
    cond_stage_model.*       the text encoder: transformer.text_model.* in 1.x, OpenCLIP's model.* in 2.x

All names are those of the original (CompVis) code. `StableDiffusionPipeline.from_single_file(FILE)` opens it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from efface.errors import BadInput
from efface.formats.base import Exported, Exporter, save_tensors
from efface.formats.changes import parameter_changes
from efface.models.storage import compvis

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    if not model.compvis_names:
        raise BadInput(
            f"single-file is the layout of Stable Diffusion 1.x and 2.x, and {model.name} is another; "
            "export it as diffusers."
        )
    edited = {
        f"{change.part}.{change.name}": change.edited.to(model.dtype) for change in parameter_changes(eraser, model)
    }

    def state(part: str) -> dict[str, Tensor]:
        tensors = ((name, edited.get(f"{part}.{name}", tensor)) for name, tensor in model.weights(part))
        return {name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors}

    unet, vae = model.denoiser.config, model.vae.config
    tensors = {compvis.DENOISER + compvis.unet_name(name, unet): tensor for name, tensor in state("denoiser").items()}
    for name, tensor in state("vae").items():
        tensors[compvis.VAE + compvis.vae_name(name, vae)] = compvis.vae_tensor(name, tensor)
    # This setting identifies the U-Nets of 2.x, whose text encoder is OpenCLIP's.
    tensors |= compvis.text_tensors(state("text_encoder"), open_clip=unet["use_linear_projection"])
    save_tensors(path, tensors, eraser, force)
    return Exported(path, len(edited))


ENTRY = Exporter(
    name="single-file",
    summary="A complete Stable Diffusion 1.x or 2.x checkpoint with the eraser baked in, for web interfaces.",
    suffix=".safetensors",
    write=_write,
)
