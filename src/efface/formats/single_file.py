"""A complete Stable Diffusion 1.x or 2.x checkpoint in one file with the eraser baked in, for web interfaces.

    model.diffusion_model.*  the U-Net        first_stage_model.*  the autoencoder
    cond_stage_model.*       the text encoder: transformer.text_model.* in 1.x, OpenCLIP's model.* in 2.x

All names are those of the original (CompVis) code. `StableDiffusionPipeline.from_single_file(FILE)` opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from efface.errors import BadInput
from efface.files import atomic
from efface.formats.base import Exported, Exporter, header_of_file
from efface.formats.changes import edited_tensors
from efface.models.storage import compvis
from efface.tensor_writing import layout_of, stream_tensors

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    if not model.compvis_names:
        raise BadInput(
            f"single-file is the layout of Stable Diffusion 1.x and 2.x, and {model.name} is another; "
            "export it as diffusers."
        )
    unet = model.config("unet")
    # This setting identifies the U-Nets of 2.x, whose text encoder is OpenCLIP's.
    names = _Names(unet, model.config("vae"), open_clip=bool(unet.get("use_linear_projection")))
    layouts = {name: layout_of(tensor) for name, tensor in names.of(partial(_without_values, model))}
    edited: set[str] = set()
    tensors = names.of(lambda part: edited_tensors(eraser, model, part, edited))
    with atomic(path, force) as temporary:
        stream_tensors(temporary, layouts, tensors, header_of_file(eraser))
    return Exported(path, len(edited))


@dataclass(frozen=True)
class _Names:
    """The original names of a model's tensors.

    Attributes:
        unet: The configuration of the U-Net.
        vae: That of the autoencoder.
        open_clip: Whether the text encoder is OpenCLIP's.
    """

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    open_clip: bool

    def of(self, tensors: Callable[[str], Iterable[tuple[str, Tensor]]]) -> Iterator[tuple[str, Tensor]]:
        """All tensors, (...), with their original names, given a function that yields those of a part."""
        for name, tensor in tensors("denoiser"):
            yield compvis.DENOISER + compvis.unet_name(name, self.unet), tensor
        for name, tensor in tensors("vae"):
            yield compvis.VAE + compvis.vae_name(name, self.vae), compvis.vae_tensor(name, tensor)
        yield from compvis.text_tensors(dict(tensors("text_encoder")), self.open_clip).items()


def _without_values(model: Model, part: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a part, (...), in the model's type, on the device meta."""
    for name, tensor in model.weights(part):
        dtype = model.dtype if tensor.is_floating_point() else tensor.dtype
        yield name, torch.empty(tensor.shape, dtype=dtype, device="meta")


ENTRY = Exporter(
    name="single-file",
    summary="A complete Stable Diffusion 1.x or 2.x checkpoint with the eraser baked in, for web interfaces.",
    suffix=".safetensors",
    write=_write,
)
