"""A LoRA as diffusers and peft write it: `pipe.load_lora_weights(FILE)`.

    {unet, transformer}.MODULE.lora_A.weight                       A, (r, d_in)
    {unet, transformer}.MODULE.lora_B.weight                       B, (d_out, r)
    text_encoder.text_model.MODULE.lora_linear_layer.{down, up}.weight     A and B

There is no alpha, so the change is B A. An edit of the text alone is exact: r is its rank, B = W L and A = R^T, in
every layer that reads the text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from efface.export.base import Exported, Exporter, save
from efface.export.low_rank import Factors, low_rank

if TYPE_CHECKING:
    from efface.eraser import Eraser
    from efface.models import Model

_OF_UNETS = ("down_blocks.", "mid_block.", "up_blocks.")


def write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    """Write the file."""
    tensors: dict[str, Tensor] = {}
    made, denoiser = low_rank(eraser, model, rank), "unet" if has_unet(model) else "transformer"
    for factors in made:
        if factors.part == "denoiser":
            names = [f"{denoiser}.{factors.module}.lora_{letter}.weight" for letter in "AB"]
        else:
            # As files of text encoders are since transformers 4, which had their layers one level further down.
            module = f"{factors.part}.text_model.{factors.module.removeprefix('text_model.')}"
            names = [f"{module}.lora_linear_layer.{name}.weight" for name in ("down", "up")]
        tensors |= zip(names, factors.tensors(), strict=True)
    save(path, tensors, eraser, force)
    return summary(path, made)


def has_unet(model: Model) -> bool:
    """Whether the denoiser is a U-Net, by the names of the parameters that read the text."""
    return any(name.startswith(_OF_UNETS) for name in model.text_parameters())


def summary(path: Path, made: list[Factors]) -> Exported:
    """What was written."""
    lost, size = sum(factors.lost for factors in made), sum(factors.size for factors in made)
    return Exported(path, len(made), made[0].rank, (lost / size) ** 0.5 if size else 0.0)


EXPORTER = Exporter(
    name="lora",
    summary="A LoRA for diffusers: pipe.load_lora_weights(FILE).",
    suffix=".safetensors",
    write=write,
    takes_rank=True,
)
