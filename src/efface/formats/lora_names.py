"""The names of layers in LoRA files, as far as a model has the layers.

    {unet., transformer., diffusion_model.}MODULE    diffusers, peft, AI-toolkit
    lora_unet_MODULE, lora_te_MODULE                 kohya; MODULE has "_" for "."
    lora_transformer_MODULE                          OneTrainer
    text_encoders.clip_l.transformer.MODULE          ComfyUI

MODULE is a name of diffusers or of the original code: that of Stable Diffusion, or of FLUX.1, whose layers join several
of diffusers' (`flux_names`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from efface.formats.flux_names import Layer, flux_layers, has_flux_names, xlabs_layers
from efface.formats.names import DENOISERS, kohya_name, kohya_names, parameter_names, unwrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from efface.models import Model

KOHYA = ("lora_unet_", "lora_te", "lora_transformer_")  # the prefixes of names without dots


@dataclass(frozen=True)
class LoraTarget:
    """The weights that a layer of a file changes; its rows are theirs, one after the other.

    Attributes:
        weights: The full names of the weights ("denoiser.transformer_blocks...").
        is_swapped: Whether the second half of the rows comes first.
    """

    weights: tuple[str, ...]
    is_swapped: bool = False


class LoraNames:
    """The layers of a model by their names in files.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        dotted = {
            name.removesuffix(".weight"): full
            for name, full in parameter_names(model).items()
            if full.endswith(".weight")
        }
        table = {name: LoraTarget((full,)) for name, full in {**dotted, **kohya_names(model)}.items()}
        modules = {
            full.removeprefix("denoiser.").removesuffix(".weight")
            for full in dotted.values()
            if full.startswith("denoiser.")
        }
        table |= {
            f"lora_transformer_{name.replace('.', '_')}": LoraTarget((f"denoiser.{name}.weight",)) for name in modules
        }
        table |= {
            f"text_encoders.clip_l.transformer.{name.removeprefix('text_encoder.')}": LoraTarget((full,))
            for name, full in dotted.items()
            if name.startswith("text_encoder.")
        }
        if has_flux_names(model):
            table |= _of_flux(modules)
        self._table: Mapping[str, LoraTarget] = table

    def find(self, name: str) -> LoraTarget | None:
        """The layer of a name in a file; None if the model has no such layer."""
        return self._table.get(_plain(name))


def _of_flux(modules: set[str]) -> dict[str, LoraTarget]:
    original = flux_layers(modules)
    table = {kohya_name("denoiser", name, two_encoders=True): _target(layer) for name, layer in original.items()}
    dotted = {**original, **xlabs_layers(modules)}
    return table | {f"{lead}{name}": _target(layer) for lead in DENOISERS for name, layer in dotted.items()}


def _target(layer: Layer) -> LoraTarget:
    return LoraTarget(tuple(f"denoiser.{module}.weight" for module in layer.modules), layer.is_swapped)


def _plain(name: str) -> str:
    """A layer's name without the additions of wrappers and old attention processors."""
    name = unwrapped(name)
    if ".processor." not in name:
        return name
    name = name.replace(".processor.", ".")
    return f"{name}.0" if name.endswith("to_out") else name
