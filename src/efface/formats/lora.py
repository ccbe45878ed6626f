"""LoRA files of diffusers and peft: `pipe.load_lora_weights(FILE)`. `lora_reader.py` reads them.

    {unet, transformer}.MODULE.lora_A.weight                       A, (r, d_in)
    {unet, transformer}.MODULE.lora_B.weight                       B, (d_out, r)
    text_encoder.text_model.MODULE.lora_linear_layer.{down, up}.weight     A and B

Written files have no alpha, so the change is B A. A text edit alone is exact: r is its rank, B = W L and A = R^T, in
every layer that reads the text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from efface.formats.base import Exported, Exporter, save_lora
from efface.formats.loaded_lora import check_loads
from efface.formats.low_rank import Factors, low_rank
from efface.formats.model_spec import model_spec

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    tensors: dict[str, Tensor] = {}
    modules, denoiser = low_rank(eraser, model, rank), model.denoiser_part
    for factors in modules:
        if factors.part == "denoiser":
            names = [f"{denoiser}.{factors.module}.lora_{letter}.weight" for letter in "AB"]
        else:
            # These files have the names of transformers 4, in which the layers are one level deeper.
            module = f"{factors.part}.text_model.{factors.module.removeprefix('text_model.')}"
            names = [f"{module}.lora_linear_layer.{name}.weight" for name in ("down", "up")]
        tensors |= zip(names, factors.tensors(), strict=True)
    check_loads(model, tensors, modules)
    save_lora(path, tensors, eraser, model, force, **model_spec(eraser, model))
    return exported_lora(path, modules)


def has_unet(model: Model) -> bool:
    """Whether the denoiser is a U-Net."""
    return model.denoiser_part == "unet"


def exported_lora(path: Path, modules: list[Factors]) -> Exported:
    """The summary of a written LoRA, with the error of the rank limit."""
    lost, size = sum(factors.lost for factors in modules), sum(factors.size for factors in modules)
    return Exported(path, len(modules), modules[0].rank, (lost / size) ** 0.5 if size else 0.0)


ENTRY = Exporter(
    name="lora",
    summary="A LoRA for diffusers: pipe.load_lora_weights(FILE).",
    suffix=".safetensors",
    write=_write,
    takes_rank=True,
)
