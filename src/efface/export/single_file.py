"""A whole Stable Diffusion 1.x checkpoint in one file with the eraser baked in, as web interfaces take it.

    model.diffusion_model.*  the U-Net        first_stage_model.*  the autoencoder
    cond_stage_model.transformer.text_model.*  the text encoder          in the names of the original (CompVis) code

`StableDiffusionPipeline.from_single_file(FILE)` opens it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from efface.errors import BadInput
from efface.export.base import Exported, Exporter, save
from efface.export.changes import changes
from efface.models import compvis

if TYPE_CHECKING:
    from efface.eraser import Eraser
    from efface.models import Model


def write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    """Write the file."""
    if model.family != "sd" or model.denoiser.config["use_linear_projection"]:
        raise BadInput(
            f"single-file is the layout of Stable Diffusion 1.x, and {model.name} is another; export it as diffusers."
        )
    edited = {f"{change.part}.{change.name}": change.edited.to(model.dtype) for change in changes(eraser, model)}
    tensors: dict[str, Tensor] = {}
    for part, name, original, tensor in _renamed(model):
        tensor = edited.get(f"{part}.{name}", tensor)
        tensors[original] = compvis.vae_tensor(name, tensor) if part == "vae" else tensor
        if tensor.is_floating_point():
            tensors[original] = tensors[original].to(model.dtype)
    save(path, tensors, eraser, force)
    return Exported(path, len(edited))


def _renamed(model: Model) -> Iterator[tuple[str, str, str, Tensor]]:
    """Part, name, original name and tensor of everything in a checkpoint."""
    unet, vae = model.denoiser.config, model.vae.config
    for name, tensor in model.weights("denoiser"):
        yield "denoiser", name, compvis.DENOISER + compvis.unet_name(name, unet), tensor
    for name, tensor in model.weights("vae"):
        yield "vae", name, compvis.VAE + compvis.vae_name(name, vae), tensor
    for name, tensor in model.weights("text_encoder"):
        yield "text_encoder", name, compvis.TEXT + name.removeprefix("text_model."), tensor


EXPORTER = Exporter(
    name="single-file",
    summary="A whole Stable Diffusion 1.x checkpoint with the eraser baked in, for web interfaces.",
    suffix=".safetensors",
    write=write,
)
