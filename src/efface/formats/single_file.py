"""A complete checkpoint of Stable Diffusion 1.x, 2.x or XL in one file with the eraser baked in, for web interfaces.

    model.diffusion_model.*  the U-Net        first_stage_model.*  the autoencoder
    cond_stage_model.*       the text encoder: transformer.text_model.* in 1.x, OpenCLIP's model.* in 2.x
    conditioner.embedders.*  those of SDXL: 0.transformer.text_model.*, and OpenCLIP's 1.model.*
    v_pred, ztsnr            empty: an SDXL model that predicts the velocity, and whose last noise level has no signal

All names are those of the original code (CompVis; sgm for SDXL), except the last two, by which ComfyUI and Forge
recognise such models. `from_single_file(FILE)` of diffusers' pipeline opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.errors import BadInput
from efface.files import atomic
from efface.formats.base import Exported, Exporter, header_of_file
from efface.formats.changes import edited_tensors
from efface.formats.model_spec import is_v2
from efface.models.storage import compvis
from efface.tensor_writing import layout_of, stream_tensors

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    _check(model)
    markers = [(name, torch.empty(0)) for name in _markers(model)]
    empty = chain(_original(model, partial(_without_values, model)), markers)
    layouts = {name: layout_of(tensor) for name, tensor in empty}
    edited: set[str] = set()
    tensors = _original(model, lambda part: edited_tensors(eraser, model, part, edited))
    with atomic(path, force) as temporary:
        stream_tensors(temporary, layouts, chain(tensors, markers), header_of_file(eraser))
    return Exported(path, len(edited))


def _check(model: Model) -> None:
    """Check that the layout can hold a model.

    Raises:
        BadInput: It cannot.
    """
    if not model.compvis_names:
        raise BadInput(
            f"single-file is the layout of Stable Diffusion 1.x, 2.x and XL, and {model.name} is another; "
            "export it as diffusers."
        )
    missing = sorted(_encoders(model).keys() - set(model.encoder_parts))
    if missing:
        raise BadInput(f"{model.name} has no {missing[0]}, which a single file contains; export it as diffusers.")
    scheduler = str(model.scheduler_config["_class_name"])
    if scheduler.startswith("EDM"):
        raise BadInput(f"A single file does not hold the noise levels of an {scheduler}; export it as diffusers.")


def _encoders(model: Model) -> Mapping[str, str]:
    """The beginnings of the original names by text encoder."""
    if model.family == "sdxl":
        return {"text_encoder": compvis.SDXL_TEXT, "text_encoder_2": compvis.SDXL_OPEN_CLIP}
    return {"text_encoder": compvis.OPEN_CLIP if is_v2(model) else compvis.TEXT}


def _markers(model: Model) -> tuple[str, ...]:
    """The names of empty tensors that stand for settings of an SDXL model's scheduler."""
    scheduler = model.scheduler_config
    if model.family != "sdxl" or scheduler.get("prediction_type") != "v_prediction":
        return ()
    return (
        (compvis.V_PREDICTION, compvis.ZERO_SNR) if scheduler.get("rescale_betas_zero_snr") else (compvis.V_PREDICTION,)
    )


def _original(model: Model, tensors: Callable[[str], Iterable[tuple[str, Tensor]]]) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a model, (...), with their original names, given a function that yields those of a part."""
    for part, prefix in {"denoiser": compvis.DENOISER, "vae": compvis.VAE, **_encoders(model)}.items():
        config = model.config(model.denoiser_part if part == "denoiser" else part)
        yield from compvis.original_tensors(tensors(part), prefix, config)


def _without_values(model: Model, part: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a part, (...), in the model's type, on the device meta."""
    for name, tensor in model.weights(part):
        dtype = model.dtype if tensor.is_floating_point() else tensor.dtype
        yield name, torch.empty(tensor.shape, dtype=dtype, device="meta")


ENTRY = Exporter(
    name="single-file",
    summary="A complete Stable Diffusion 1.x, 2.x or XL checkpoint with the eraser baked in, for web interfaces.",
    suffix=".safetensors",
    write=_write,
)
