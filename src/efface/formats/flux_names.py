"""Names of FLUX.1's original code, which kohya, BFL and XLabs use, and the layers of diffusers behind them.

    double_blocks.N.img_attn.qkv      transformer_blocks.N.attn.{to_q, to_k, to_v}
    double_blocks.N.txt_attn.qkv      transformer_blocks.N.attn.{add_q_proj, add_k_proj, add_v_proj}
    single_blocks.N.linear1           single_transformer_blocks.N.{attn.to_q, attn.to_k, attn.to_v, proj_mlp}
    txt_in, vector_in.in_layer        context_embedder, time_text_embed.text_embedder.linear_1

The original code has one layer where diffusers has several: its rows are theirs, one after the other. Chroma has the
same names, without the layers that it lacks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efface.formats.empty_denoiser import denoiser_class

if TYPE_CHECKING:
    from efface.models import Model

_IMAGE, _TEXT = ("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_attn.qkv": _IMAGE, "img_attn.proj": ("attn.to_out.0",), "img_mod.lin": ("norm1.linear",),
    "img_mlp.0": ("ff.net.0.proj",), "img_mlp.2": ("ff.net.2",),
    "txt_attn.qkv": _TEXT, "txt_attn.proj": ("attn.to_add_out",), "txt_mod.lin": ("norm1_context.linear",),
    "txt_mlp.0": ("ff_context.net.0.proj",), "txt_mlp.2": ("ff_context.net.2",),
}  # fmt: skip
_SINGLE: Mapping[str, tuple[str, ...]] = {
    "linear1": (*_IMAGE, "proj_mlp"), "linear2": ("proj_out",), "modulation.lin": ("norm.linear",),
}  # fmt: skip
_OUTSIDE: Mapping[str, str] = {
    "txt_in": "context_embedder",
    "img_in": "x_embedder",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_SWAPPED = "norm_out.linear"
# XLabs names the attention of the image and of the text by a number: "qkv_lora1" is read as "qkv1".
_XLABS_DOUBLE = {"qkv1": _IMAGE, "proj1": ("attn.to_out.0",), "qkv2": _TEXT, "proj2": ("attn.to_add_out",)}
_XLABS_SINGLE = {"qkv": _IMAGE, "proj": ("proj_out",)}
_CLASSES = ("FluxTransformer2DModel", "ChromaTransformer2DModel")


@dataclass(frozen=True)
class Layer:
    """A layer of a file: modules of the denoiser whose rows follow each other.

    Attributes:
        modules: The names of the modules in diffusers, without the part of the model.
        is_swapped: Whether the second half of the rows comes first, as that of scale and shift does.
    """

    modules: tuple[str, ...]
    is_swapped: bool = False


def has_flux_names(model: Model) -> bool:
    """Whether the denoiser has the layers of FLUX.1's original code."""
    return model.denoiser_part == "transformer" and denoiser_class(model).__name__ in _CLASSES


def flux_layers(modules: Collection[str]) -> dict[str, Layer]:
    """The layers by their original names.

    Args:
        modules: The names of the denoiser's modules in diffusers; a layer with another module is left out.
    """
    return _layers(modules, _DOUBLE, _SINGLE) | {
        original: Layer((module,), module == _SWAPPED) for original, module in _OUTSIDE.items() if module in modules
    }


def xlabs_layers(modules: Collection[str]) -> dict[str, Layer]:
    """The layers by XLabs' names, without `processor` and `lora`: double_blocks.0.qkv1, single_blocks.0.proj."""
    return _layers(modules, _XLABS_DOUBLE, _XLABS_SINGLE)


def _layers(
    modules: Collection[str], double: Mapping[str, tuple[str, ...]], single: Mapping[str, tuple[str, ...]]
) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    kinds = (("double_blocks", "transformer_blocks", double), ("single_blocks", "single_transformer_blocks", single))
    for original, prefix, names in kinds:
        blocks = {module.split(".")[1] for module in modules if module.startswith(f"{prefix}.")}
        for block in sorted(blocks, key=int):
            for name, inner in names.items():
                joined = tuple(f"{prefix}.{block}.{module}" for module in inner)
                if all(module in modules for module in joined):
                    layers[f"{original}.{block}.{name}"] = Layer(joined)
    return layers
