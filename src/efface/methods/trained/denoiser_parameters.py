"""The parameters of a denoiser that ESD trains, by the option names of the published codes.

The 2023 code selects parameters by their CompVis names. The 2025 code selects weights and biases of linear and
convolutional layers by diffusers' names. CompVis' `time_embed` is `time_embedding`, `out` is `conv_norm_out` and
`conv_out`; `output_blocks.6` and `.8` are the first and third attention of `up_blocks.2`, `input_blocks.4` and `.7` the
first of `down_blocks.1` and of `down_blocks.2`. For SDXL, `esd-u` and `esd-all` of 2025 are layers of the blocks alone,
without those that read the embeddings of time and sizes (esd_sdxl.py, 25613d2).

A transformer with joint attention has no layers that read the text alone. The script for FLUX
(https://github.com/stanulet27/erasing, esd_flux.py, 4cbdac2) selects the linear layers below each `attn` as `esd-x`,
and their `to_k` and `to_v` as `esd-x-strict`. That for FLUX.2 (esd_flux2_klein.py, 92e6d78) leaves out the blocks in
which the attention is one layer with the feed-forward network, and `esd-x-strict` has the text's `add_k_proj` and
`add_v_proj` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from efface.errors import BadRequest

TrainMethod = Literal[
    "xattn", "noxattn", "selfattn", "full", "notime", "xlayer", "selflayer",
    "esd-x", "esd-x-strict", "esd-u", "esd-all",
]  # fmt: skip

_OUT = ("conv_norm_out.", "conv_out.")
_TIME = ("time_embedding.",)
_XLAYERS = ("up_blocks.2.attentions.0.", "up_blocks.2.attentions.2.")
_SELFLAYERS = ("down_blocks.1.attentions.0.", "down_blocks.2.attentions.0.")

# 2023: any parameter by its name.
_BY_PARAMETER: dict[str, Callable[[str], bool]] = {
    "xattn": lambda name: "attn2" in name,
    "selfattn": lambda name: "attn1" in name,
    "noxattn": lambda name: "attn2" not in name and not name.startswith(_OUT + _TIME),
    "full": lambda name: True,
    "notime": lambda name: not name.startswith(_OUT + _TIME),
    "xlayer": lambda name: "attn2" in name and name.startswith(_XLAYERS),
    "selflayer": lambda name: "attn1" in name and name.startswith(_SELFLAYERS),
}
# 2025: weights and biases of linear and convolutional layers, by the layer's name.
_BY_LAYER: dict[str, Callable[[str], bool]] = {
    "esd-x": lambda name: "attn2" in name,
    "esd-x-strict": lambda name: "attn2.to_k" in name or "attn2.to_v" in name,
    "esd-u": lambda name: "attn2" not in name,
    "esd-all": lambda name: True,
}
_BY_LAYER_OF_SDXL: dict[str, Callable[[str], bool]] = {
    **_BY_LAYER,
    "esd-u": lambda name: "attn2" not in name and _in_block_of_sdxl(name),
    "esd-all": lambda name: _in_block_of_sdxl(name),
}
_FUSED = "to_qkv_mlp_proj"
ATTENTION = (".attn.", ".attention.")  # in the names of joint attention; the second in Z-Image
_BY_LAYER_OF_JOINT_ATTENTION: dict[str, Callable[[str], bool]] = {
    "esd-x": lambda name: any(attention in name for attention in ATTENTION),
    "esd-x-strict": lambda name: name.endswith(tuple(f"{attention}to_{x}" for attention in ATTENTION for x in "kv")),
    "esd-u": lambda name: not any(attention in name for attention in ATTENTION),
    "esd-all": lambda name: True,
}


def trained_parameters(denoiser: nn.Module, train_method: TrainMethod, mu_quirk: bool = False) -> tuple[str, ...]:
    """The names of the parameters to train.

    Args:
        denoiser: The U-Net or transformer.
        train_method: The set of parameters.
        mu_quirk: Whether `noxattn` and `notime` include the output layers, as in mu's packaging, by an oversight.

    Raises:
        BadRequest: The denoiser has no parameter of the set.
    """
    by_layer = _layers_of(denoiser)
    if train_method in by_layer:
        layers = {name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
        wanted = {layer for layer in layers if by_layer[train_method](layer)}
        chosen = [name for name, _ in denoiser.named_parameters() if name.rpartition(".")[0] in wanted]
    else:
        by_name = _BY_PARAMETER[train_method]
        spared = _OUT if mu_quirk and train_method in ("noxattn", "notime") else ()
        chosen = [name for name, _ in denoiser.named_parameters() if by_name(name) or name.startswith(spared)]
    if not chosen:
        raise BadRequest(f"train_method={train_method} selects no parameter of this model; choose another.")
    return tuple(chosen)


def has_cross_attention(denoiser: nn.Module) -> bool:
    """Whether layers `attn2` read the text alone, as in U-Nets and some transformers."""
    return any(name.endswith("attn2") for name, _ in denoiser.named_modules())


def _layers_of(denoiser: nn.Module) -> dict[str, Callable[[str], bool]]:
    """The sets of layers of a U-Net, of SDXL's U-Net, or of a transformer."""
    if not has_cross_attention(denoiser):
        return _layers_of_joint_attention(denoiser)
    is_sdxl = getattr(denoiser.config, "addition_embed_type", None) == "text_time"
    return _BY_LAYER_OF_SDXL if is_sdxl else _BY_LAYER


def _in_block_of_sdxl(name: str) -> bool:
    return "block" in name and "emb" not in name


def _layers_of_joint_attention(denoiser: nn.Module) -> dict[str, Callable[[str], bool]]:
    """The sets of a transformer with joint attention: FLUX and others, or FLUX.2 with its fused blocks."""
    fused = tuple(name.removesuffix(_FUSED) for name, _ in denoiser.named_modules() if name.endswith(_FUSED))
    if not fused:
        return _BY_LAYER_OF_JOINT_ATTENTION
    strict = tuple(f".attn.{name}" for name in ("to_k", "to_v", "add_k_proj", "add_v_proj"))
    is_attention: Callable[[str], bool] = lambda name: ".attn." in name and not name.startswith(fused)  # noqa: E731
    return {
        "esd-x": is_attention,
        "esd-x-strict": lambda name: name.endswith(strict),
        "esd-u": lambda name: not is_attention(name),
        "esd-all": lambda name: True,
    }
