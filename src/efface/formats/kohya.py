"""LoRA files of kohya's sd-scripts, which ComfyUI and A1111 read. `kohya_flux` has the names of FLUX.1.

    lora_unet_MODULE.{lora_down, lora_up}.weight, .alpha     MODULE in diffusers' names, with "_" for "."; of SDXL in
                                                             those of sgm (input_blocks_4_1_...)
    lora_unet_MODULE.{diff, diff_b}                          the change of the module's weight and bias
    lora_te_text_model_MODULE...                             the text encoder; of two encoders, lora_te1_ and lora_te2_

The change of a LoRA is alpha / r up @ down; alpha is r here, so that strength 1 equals the eraser. The other keys hold
what a LoRA cannot: changes of biases and norms, and without a rank also changes of full rank. They are exact.

A file has only what all of these programs read in the same way, therefore:
- the weight of a module whose bias changes is a difference too, since A1111 reads `diff_b` only beside `diff`;
- an attention of OpenCLIP has all its maps, zeros if unchanged, since A1111 reads them only together;
- changes of norms and embeddings of text encoders, which ComfyUI does not read, are rejected.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from efface.formats.model_spec import is_v2, model_spec
from efface.formats.names import kohya_name, original_name

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model

_IN_TEXT_ENCODERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")  # the modules that all programs know


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    if not has_unet(model):
        return _write_flux(eraser, model, path, rank, force)
    changes = list(parameter_changes(eraser, model))
    if not changes:
        raise BadInput("The eraser changes no weight; there is nothing to export.")
    for change in changes:
        _check(model, change)
    biased = {_module(change) for change in changes if change.name.endswith(".bias")}
    factored = [change for change in changes if _is_low_rank(change, rank) and _module(change) not in biased]
    factors = [factors_of(change, rank) for change in factored]
    lost, size = sum(part.lost for part in factors), sum(part.size for part in factors)
    tensors: dict[str, Tensor] = {}
    for of_module in padded_to_one_rank([*factors, *_rest_of_attentions(model, changes)]):
        name = _name(model, of_module.part, of_module.module)
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = of_module.tensors()
        tensors[f"{name}.alpha"] = torch.tensor(float(of_module.rank))
    for part, module in biased:
        for _, weight in model.weights(part, {f"{module}.weight"}):
            tensors[f"{_name(model, part, module)}.diff"] = torch.zeros_like(weight, device="cpu", dtype=torch.float32)
    for change in changes:
        if change not in factored:
            key = "diff_b" if change.name.endswith(".bias") else "diff"
            difference = change.edited - change.weight.double()
            tensors[f"{_name(model, *_module(change))}.{key}"] = difference.float()
            size += float(difference.square().sum())
    largest = max((part.rank for part in factors), default=0)
    sizes = {"ss_network_dim": largest, "ss_network_alpha": largest} if largest else {}
    module = {"ss_network_module": "networks.lora"}
    save_lora(path, tensors, eraser, model, force, **module, **sizes, **model_spec(eraser, model))
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


def _module(change: ParameterChange) -> tuple[str, str]:
    """The part and the name of the module that has a parameter."""
    return change.part, change.name.rpartition(".")[0]


def _is_low_rank(change: ParameterChange, rank: int | None) -> bool:
    is_matrix = change.weight.ndim in (2, 4) and change.name.endswith(".weight")
    return is_matrix and (rank is not None or change.rest is None)


def _check(model: Model, change: ParameterChange) -> None:
    """Check that all programs read a change.

    Raises:
        BadInput: A program does not.
    """
    module, _, kind = change.name.rpartition(".")
    is_known = kind in ("weight", "bias")
    if change.part != "denoiser":
        is_known &= module.endswith(_IN_TEXT_ENCODERS)
        # A1111 reads no biases of OpenCLIP's queries, keys and values.
        is_known &= not (change.part == _open_clip(model) and kind == "bias" and module.endswith(_IN_TEXT_ENCODERS[:3]))
    if not is_known:
        raise BadInput(
            f"The eraser changes {change.part}.{change.name}, which kohya's files cannot contain; export it as uce, "
            "diffusers or single-file."
        )


def _open_clip(model: Model) -> str | None:
    """The text encoder that the original code has as OpenCLIP's, if loaded: the second of SDXL, that of SD 2.x."""
    part = "text_encoder_2" if model.family == "sdxl" else "text_encoder"
    is_there = part in model.encoder_parts and (model.family == "sdxl" or is_v2(model))
    return part if is_there else None


def _rest_of_attentions(model: Model, changes: list[ParameterChange]) -> Iterator[Factors]:
    """Zero factors of the unchanged maps in the attentions of OpenCLIP that have a changed map."""
    part = _open_clip(model)
    changed = {module for of_part, module in map(_module, changes) if of_part == part and "self_attn." in module}
    maps = {f"{module.rpartition('.')[0]}.{name}" for module in changed for name in _IN_TEXT_ENCODERS[:4]}
    if part is None or not maps - changed:
        return
    for name, weight in model.weights(part, {f"{module}.weight" for module in maps - changed}):
        up, down = torch.zeros(len(weight), 1), torch.zeros(1, weight.shape[1])
        yield Factors(part, name.removesuffix(".weight"), weight.shape, up, down, 0.0, 0.0)


def _name(model: Model, part: str, module: str) -> str:
    """The module's key. SDXL's denoiser has the names of sgm, which all programs read."""
    two_encoders = model.family == "sdxl" or len(model.encoder_parts) > 1  # a pipeline of SDXL may have none
    # A1111 knows this module by its original name only.
    if part == "denoiser" and (two_encoders or module == "conv_norm_out"):
        module = original_name(model)(f"{module}.weight").removesuffix(".weight")
    return kohya_name(part, module, two_encoders)


ENTRY = Exporter(
    name="kohya",
    summary="A LoRA for ComfyUI, A1111 and kohya's sd-scripts; without a rank, exact differences where needed.",
    suffix=".safetensors",
    write=_write,
    takes_rank=True,
)
