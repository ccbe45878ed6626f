"""LoRA files of kohya's sd-scripts, which ComfyUI and A1111 read. `lora.py` has the reader.

    lora_unet_MODULE.{lora_down, lora_up}.weight, .alpha     MODULE in diffusers' names, with "_" for "."
    lora_te_text_model_MODULE...                             the text encoder; of two encoders, lora_te1_ and lora_te2_

The change is alpha / r up @ down; alpha is r here, so that strength 1 equals the eraser.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.errors import BadInput
from efface.formats.base import Exported, Exporter, save_tensors
from efface.formats.lora import exported_lora, has_unet
from efface.formats.low_rank import low_rank
from efface.formats.names import kohya_name

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    if not has_unet(model):
        raise BadInput(f"kohya's names are for U-Nets, and {model.name} is a transformer; export it as lora.")
    tensors: dict[str, Tensor] = {}
    modules = low_rank(eraser, model, rank)
    for factors in modules:
        name = kohya_name(factors.part, factors.module, two_encoders=len(model.encoder_parts) > 1)
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = factors.tensors()
        tensors[f"{name}.alpha"] = torch.tensor(float(factors.rank))
    sizes = {"ss_network_dim": modules[0].rank, "ss_network_alpha": modules[0].rank}
    save_tensors(path, tensors, eraser, force, ss_network_module="networks.lora", **sizes)
    return exported_lora(path, modules)


ENTRY = Exporter(
    name="kohya",
    summary="A LoRA for ComfyUI, A1111 and kohya's sd-scripts.",
    suffix=".safetensors",
    write=_write,
    takes_rank=True,
)
