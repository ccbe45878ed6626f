"""LoRA files of kohya's sd-scripts, which ComfyUI and A1111 read. `kohya_flux` has the names of FLUX.1.

    lora_unet_MODULE.{lora_down, lora_up}.weight, .alpha     MODULE in diffusers' names, with "_" for "."; of SDXL in
                                                             those of sgm (input_blocks_4_1_...)
    lora_unet_MODULE.{diff, diff_b}                          the change of the module's weight and bias
    lora_te_text_model_MODULE...                             the text encoder; of two encoders, lora_te1_ and lora_te2_

The change of a LoRA is alpha / r up @ down; alpha is r here, so that strength 1 equals the eraser. The other keys hold
what a LoRA cannot: changes of biases and norms, and without a rank also changes of full rank. They are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.errors import BadInput
from efface.formats.base import Exported, Exporter, save_lora
from efface.formats.changes import ParameterChange, parameter_changes
from efface.formats.empty_denoiser import empty_denoiser
from efface.formats.flux_names import has_flux_names
from efface.formats.kohya_flux import flux_tensors
from efface.formats.loaded_lora import check_loads
from efface.formats.lora import exported_lora, has_unet
from efface.formats.low_rank import Factors, factors_of, low_rank, padded_to_one_rank
from efface.formats.model_spec import model_spec
from efface.formats.names import kohya_name, original_name

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    if not has_unet(model):
        return _write_flux(eraser, model, path, rank, force)
    changes = [_written(change, rank) for change in parameter_changes(eraser, model)]
    if not changes:
        raise BadInput("The eraser changes no weight; there is nothing to export.")
    factors = padded_to_one_rank([change.factors for change in changes if change.factors])
    tensors: dict[str, Tensor] = {}
    for of_module in factors:
        name = _name(model, of_module.part, of_module.module)
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = of_module.tensors()
        tensors[f"{name}.alpha"] = torch.tensor(float(of_module.rank))
    for change in changes:
        if change.key:
            name = _name(model, change.full.part, change.full.name.rpartition(".")[0])
            tensors[f"{name}.{change.key}"] = (change.full.edited - change.full.weight.double()).float()
    largest = max((of_module.rank for of_module in factors), default=0)
    sizes = {"ss_network_dim": largest, "ss_network_alpha": largest} if largest else {}
    module = {"ss_network_module": "networks.lora"}
    save_lora(path, tensors, eraser, model, force, **module, **sizes, **model_spec(eraser, model))
    lost, size = sum(change.lost for change in changes), sum(change.size for change in changes)
    return Exported(path, len(changes), largest or None, (lost / size) ** 0.5 if size else 0.0)


def _write_flux(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    if not has_flux_names(model):
        raise BadInput(f"kohya's names are for U-Nets and FLUX.1, and {model.name} is neither; export it as lora.")
    factors = low_rank(eraser, model, rank)
    tensors = flux_tensors(empty_denoiser(model), factors)
    check_loads(model, tensors, factors)
    sizes = {"ss_network_dim": factors[0].rank, "ss_network_alpha": factors[0].rank}
    module = {"ss_network_module": "networks.lora_flux"}
    save_lora(path, tensors, eraser, model, force, **module, **sizes, **model_spec(eraser, model))
    return exported_lora(path, factors)


@dataclass(frozen=True, eq=False)
class _Written:
    """A change as LoRA factors, or as a difference under `key`."""

    full: ParameterChange
    factors: Factors | None
    key: str = ""

    @property
    def lost(self) -> float:
        return self.factors.lost if self.factors else 0.0

    @property
    def size(self) -> float:
        return self.factors.size if self.factors else float(self.full.matrix.square().sum())


def _written(change: ParameterChange, rank: int | None) -> _Written:
    _, _, kind = change.name.rpartition(".")
    if kind not in ("weight", "bias") or "embeddings." in change.name:
        raise BadInput(
            f"The eraser changes {change.part}.{change.name}, which kohya's files cannot contain; export it as uce, "
            "diffusers or single-file."
        )
    is_matrix = change.weight.ndim in (2, 4) and kind == "weight"
    if is_matrix and (rank is not None or change.rest is None):
        return _Written(change, factors_of(change, rank))
    return _Written(change, None, "diff_b" if kind == "bias" else "diff")


def _name(model: Model, part: str, module: str) -> str:
    """The module's key. SDXL's denoiser has the names of sgm, which all programs read."""
    two_encoders = len(model.encoder_parts) > 1
    if part == "denoiser" and two_encoders:
        module = original_name(model, f"{module}.weight").removesuffix(".weight")
    return kohya_name(part, module, two_encoders)


ENTRY = Exporter(
    name="kohya",
    summary="A LoRA for ComfyUI, A1111 and kohya's sd-scripts; without a rank, exact differences where needed.",
    suffix=".safetensors",
    write=_write,
    takes_rank=True,
)
