"""sd-scripts: `networks/merge_lora.py` and `networks/sdxl_merge_lora.py`, and its loaders of checkpoints.

The modules are those of sd-scripts at their published sizes, without memory; then they get the tiny weights by name.
sd-scripts reads LoRA factors of the blocks that it trains itself, and no differences (`.diff`).
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from clients.common import Family, Loaded, arguments, by_format, leave_out, module, run
from clients.ldm_configs import ENCODERS

_UNET, _CLIP_L, _CLIP_G = (
    "model.diffusion_model.", "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.",
)  # fmt: skip
_LAYERS = {"sd1": {"clip_l": 12}, "sd2": {"clip_h": 23}, "sdxl": {"clip_l": 12, "clip_g": 32}}


def load_lora(family: Family, path: Path) -> Loaded | None:
    file = load_file(path)
    if any(key.endswith((".diff", ".diff_b")) for key in file):
        return None
    encoders, unet = _encoders(family), _unet(family)
    log = _Log()
    merged = str(path)
    if family.name == "sdxl":
        script = module("sdxl_merge_lora")
        script.logger.addHandler(log)
        script.merge_to_sd_model(*encoders, unet, [merged], [1.0], [], torch.float32)
    else:
        script = module("merge_lora")
        script.logger.addHandler(log)
        script.merge_to_sd_model(*encoders, unet, [merged], [1.0], torch.float32)
    script.logger.removeHandler(log)
    note = f"not matched: {', '.join(log.unmatched[:3])}" * bool(log.unmatched)
    return Loaded(len(file) - 3 * len(log.unmatched), _weights(family, unet, encoders), note)


def load_checkpoint(family: Family, path: Path) -> Loaded:
    if family.name == "sdxl":
        return _load_sdxl(family, path)
    util, is_v2 = module("library.model_util"), family.name == "sd2"
    _, state = util.load_checkpoint_with_text_encoder_conversion(str(path), "cpu")
    keys = len(state)
    unet = util.convert_ldm_unet_checkpoint(is_v2, state, util.create_unet_diffusers_config(is_v2, is_v2))
    vae = util.convert_ldm_vae_checkpoint(state, util.create_vae_diffusers_config())
    text = util.convert_ldm_clip_checkpoint_v2(state, 77) if is_v2 else util.convert_ldm_clip_checkpoint_v1(state)
    text = {name: tensor for name, tensor in text.items() if "position_ids" not in name}
    weights = {f"unet.{name}": tensor for name, tensor in unet.items()}
    weights |= {f"vae.{name}": tensor for name, tensor in vae.items()}
    weights |= {f"text_encoder.{name}": tensor for name, tensor in text.items()}
    return _compared(family, weights, keys)


def _load_sdxl(family: Family, path: Path) -> Loaded:
    """The steps of `load_models_from_sdxl_checkpoint`, whose classes have the published widths.

    sd-scripts transposes the projection, which is square in the published models, neither here nor when it saves them.
    """
    util, of_sdxl, state = module("library.model_util"), module("library.sdxl_model_util"), load_file(path)
    unet = {n.removeprefix(_UNET): tensor for n, tensor in state.items() if n.startswith(_UNET)}
    ours = {theirs: name for name, theirs in _unet_names(family).items()}
    one = {n.removeprefix(_CLIP_L): tensor for n, tensor in state.items() if n.startswith(_CLIP_L)}
    two, _ = of_sdxl.convert_sdxl_text_encoder_2_checkpoint(
        {name: tensor for name, tensor in state.items() if name.startswith(_CLIP_G)}, max_length=77
    )
    two["text_projection.weight"] = two["text_projection.weight"].T
    vae = util.convert_ldm_vae_checkpoint(dict(state), util.create_vae_diffusers_config())
    weights = {f"unet.{ours.get(name, name)}": tensor for name, tensor in unet.items()}
    for part, tensors in (("vae", vae), ("text_encoder", one), ("text_encoder_2", two)):
        weights |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}
    loaded = _compared(family, weights, len(state))
    note = "the projection of the second text encoder, which sd-scripts does not transpose, is compared transposed"
    return Loaded(loaded.matched, loaded.weights, "; ".join(filter(None, (loaded.note, note))))


def _compared(family: Family, weights: dict[str, Tensor], keys: int) -> Loaded:
    """The weights, if they are those of the model without exception."""
    odd = sorted(weights.keys() ^ family.base.keys() - {"image"})
    known = {name: weights[name] for name in weights.keys() & family.base.keys()}
    return Loaded(0 if odd else keys, known, f"missing or unknown: {', '.join(odd[:3])}" * bool(odd))


def _encoders(family: Family) -> list[nn.Module]:
    transformers = module("transformers")
    made: list[nn.Module] = []
    for encoder, layers in _LAYERS[family.name].items():
        config = transformers.CLIPTextConfig(
            num_hidden_layers=layers, vocab_size=49408, projection_dim=24, **ENCODERS[family.name][encoder]
        )
        kind = transformers.CLIPTextModelWithProjection if encoder == "clip_g" else transformers.CLIPTextModel
        made.append(kind(config))
        made[-1].load_state_dict(family.part("text_encoder_2" if encoder == "clip_g" else "text_encoder"))
    return made


def _unet(family: Family) -> nn.Module:
    with torch.device("meta"):
        if family.name == "sdxl":
            unet = module("library.sdxl_original_unet").SdxlUNet2DConditionModel()
        else:
            more = (
                {"use_linear_projection": True, "attention_head_dim": [5, 10, 20, 20]} if family.name == "sd2" else {}
            )
            unet = module("library.original_unet").UNet2DConditionModel(
                sample_size=64, cross_attention_dim=768, **{"attention_head_dim": 8, **more}
            )
    names = _unet_names(family)
    parameters = {names[name]: tensor for name, tensor in family.part("unet").items()}
    assert parameters.keys() == {name for name, _ in unet.named_parameters()}
    for name, tensor in parameters.items():
        owner, _, attribute = name.rpartition(".")
        setattr(unet.get_submodule(owner), attribute, nn.Parameter(tensor.clone(), requires_grad=False))
    return unet


def _unet_names(family: Family) -> dict[str, str]:
    """From diffusers' names of the U-Net's weights to those of sd-scripts, by its own conversion."""
    names = {name: name for name in family.part("unet")}
    if family.name != "sdxl":
        return names
    converted = module("library.sdxl_model_util").convert_diffusers_unet_state_dict_to_sdxl(names)
    return {ours: theirs for theirs, ours in converted.items()}


def _weights(family: Family, unet: nn.Module, encoders: list[nn.Module]) -> dict[str, Tensor]:
    names, states = _unet_names(family), unet.state_dict()
    weights = {f"unet.{name}": states[names[name]] for name in family.part("unet")}
    for part, encoder in zip(("text_encoder", "text_encoder_2"), encoders, strict=False):
        state = encoder.state_dict()
        weights |= {f"{part}.{name}": state[name] for name in family.part(part)}
    return weights


class _Log(logging.Handler):
    """Collects the modules that sd-scripts reports as not found."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.unmatched: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        _, found, key = record.getMessage().partition("no module found for LoRA weight: ")
        if found:
            self.unmatched.append(key)


def _stub_training(checkout: Path) -> None:
    """Leave out the training code, whose packages the loaders do not use."""
    sys.path.insert(0, str(checkout / "networks"))
    training: Any = ModuleType("library.train_util")
    training.load_metadata_from_safetensors = lambda path: safe_open(path, "pt").metadata()
    module("library").train_util = sys.modules["library.train_util"] = training


def main() -> None:
    checkout, folders = arguments()
    leave_out("torchvision")
    _stub_training(checkout)
    run(by_format(load_lora, load_checkpoint), ("kohya", "single-file"), folders)


if __name__ == "__main__":
    main()
