"""A1111: its extension Lora (`networks.load_network`, `network_apply_weights`).

A1111's launcher downloads the original code, at the commits in `modules/launch_utils.py`; its checkouts have to be in
`repositories/stable-diffusion-stability-ai` and `repositories/generative-models`. Their U-Nets, the text encoder of
transformers and that of the package `open_clip_torch` get tiny widths. What A1111 imports for its web interface alone
is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from clients.common import Family, Loaded, arguments, leave_out, module, run
from clients.ldm_configs import ENCODERS, UNETS

_VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
# The names of open_clip; queries, keys and values are one tensor, `attn.in_proj_weight` and `_bias`.
_OPEN_CLIP = {
    "text_model.encoder.layers.": "transformer.resblocks.", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj",
    "text_model.final_layer_norm": "ln_final", "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
}  # fmt: skip


def load(family: Family, case: dict[str, Any]) -> Loaded:
    networks, shared = module("networks"), module("modules.shared")
    shared.sd_model = model = _model(family.name, family.folder)
    on_disk = module("network").NetworkOnDisk("efface", str(family.folder / case["name"]))
    log = _Unmatched()
    logging.getLogger().addHandler(log)
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        network = networks.load_network("efface", on_disk)
    except AssertionError as error:
        return Loaded(0, _weights(family, model), f"rejected: {' '.join(str(error).split())[:200]}")
    finally:
        logging.getLogger().removeHandler(log)
    network.te_multiplier = network.unet_multiplier = 1.0
    networks.loaded_networks[:] = [network]
    parts = _called_modules(model)
    for part in parts:
        networks.network_apply_weights(part)
    weights = {name: tensor.clone() for name, tensor in _weights(family, model).items()}
    networks.loaded_networks.clear()
    for part in parts:
        networks.network_apply_weights(part)
    version = on_disk.sd_version.name
    notes = [f"not matched: {', '.join(log.keys[:3])}" * bool(log.keys)]
    notes.append(f"shown as {version}" * (version != _VERSIONS[family.name]))
    return Loaded(case["keys"] - len(log.keys), weights, "; ".join(filter(None, notes)))


class _Unmatched(logging.Handler):
    """Collects the keys that A1111 reports as not matched."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.keys: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "didn't match keys" in record.getMessage():
            self.keys += re.findall(r"'([^']+)': '", record.getMessage())


def _called_modules(model: nn.Module) -> list[nn.Module]:
    """The modules whose forward A1111 replaces; an attention of open_clip does not call its output layer."""
    kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)
    inner = {part.out_proj for part in model.modules() if isinstance(part, nn.MultiheadAttention)}
    return [part for part in model.modules() if isinstance(part, kinds) and part not in inner]


@cache
def _model(name: str, folder: Path) -> Any:
    """The unedited model as A1111 sees it."""
    family = Family(name, folder, load_file(folder / "base.safetensors"), ())
    model: Any = nn.Module()
    model.is_sdxl = name == "sdxl"
    model.model = nn.Module()
    model.model.diffusion_model = unet = _unet(name)
    names = _unet_names(name, folder, unet)
    unet.load_state_dict({names[key]: tensor for key, tensor in family.part("unet").items()})
    if name == "sdxl":
        model.conditioner = nn.Module()
        embedders = [_clip(family, "text_encoder", "clip_l"), _open_clip(family, "text_encoder_2", "clip_g")]
        model.conditioner.embedders = nn.ModuleList(_wrapped(embedder) for embedder in embedders)
    elif name == "sd2":
        model.cond_stage_model = _wrapped(_open_clip(family, "text_encoder", "clip_h"))
    else:
        model.cond_stage_model = _wrapped(_clip(family, "text_encoder", "clip_l"))
    module("modules.shared").sd_model = model
    module("networks").assign_network_names_to_compvis_modules(model)
    return model.requires_grad_(False)


def _wrapped(embedder: nn.Module) -> nn.Module:
    wrapper = nn.Module()
    wrapper.wrapped = embedder
    return wrapper


def _clip(family: Family, part: str, encoder: str) -> nn.Module:
    transformers = module("transformers")
    config = transformers.CLIPTextConfig(num_hidden_layers=12, vocab_size=49408, **ENCODERS[family.name][encoder])
    embedder: Any = nn.Module()
    embedder.transformer = transformers.CLIPTextModel(config)
    embedder.transformer.load_state_dict(family.part(part))
    return embedder


def _open_clip(family: Family, part: str, encoder: str) -> nn.Module:
    sizes = ENCODERS[family.name][encoder]
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    open_clip = module("open_clip.model")
    layers = {"clip_h": 24, "clip_g": 32}[encoder]
    text = open_clip.CLIPTextCfg(width=width, heads=heads, layers=layers)
    vision = open_clip.CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32)
    embedder: Any = nn.Module()
    embedder.model = open_clip.CLIP(width, vision, text)
    del embedder.model.visual
    for name, tensor in family.part(part).items():
        target, rows = _open_clip_tensor(embedder.model, name)
        target.data[rows] = tensor.T if name == "text_projection.weight" else tensor
    return embedder


def _open_clip_tensor(model: Any, name: str) -> tuple[Tensor, slice]:
    """The tensor of open_clip that holds a weight of transformers, and the rows of it."""
    if name == "text_projection.weight":
        return model.text_projection, slice(None)
    third = next((index for index, letter in enumerate("qkv") if f".{letter}_proj." in name), None)
    name = re.sub(r"self_attn\.[qkv]_proj\.", "attn.in_proj_", name)
    for theirs, ours in _OPEN_CLIP.items():
        name = name.replace(theirs, ours)
    tensor = model.get_parameter(name)
    size = len(tensor) // 3
    return tensor, slice(None) if third is None else slice(third * size, third * size + size)


def _unet(name: str) -> Any:
    config, is_sdxl = UNETS[name], name == "sdxl"
    package = "sgm" if is_sdxl else "ldm"
    more = {"num_classes": "sequential", "adm_in_channels": config["adm_in_channels"]} if is_sdxl else {
        "image_size": 32, "legacy": False
    }  # fmt: skip
    return module(f"{package}.modules.diffusionmodules.openaimodel").UNetModel(
        in_channels=4, out_channels=4, model_channels=32, num_res_blocks=2, channel_mult=config["channel_mult"],
        attention_resolutions=[4, 2] if is_sdxl else [4, 2, 1], context_dim=config["context_dim"],
        transformer_depth=[1, 2, 10] if is_sdxl else 1, num_heads=config["num_heads"],
        num_head_channels=config["num_head_channels"], use_linear_in_transformer=config["use_linear_in_transformer"],
        use_spatial_transformer=True, use_checkpoint=False, **more,
    )  # fmt: skip


@cache
def _unet_names(name: str, folder: Path, unet: nn.Module) -> dict[str, str]:
    """From diffusers' names of the U-Net's weights to those of the original code, by diffusers' conversion."""
    utils = module("diffusers.loaders.single_file_utils")
    config = json.loads((folder / "model" / "unet" / "config.json").read_text())
    theirs = list(unet.state_dict())
    numbered = {f"model.diffusion_model.{key}": torch.tensor(index) for index, key in enumerate(theirs)}
    if name == "sdxl":
        config["addition_embed_type"] = "text_time"
    converted = utils.convert_ldm_unet_checkpoint(numbered, config)
    return {key: theirs[int(index)] for key, index in converted.items()}


def _weights(family: Family, model: Any) -> dict[str, Tensor]:
    """The weights of denoiser and text encoders, (...), by diffusers' names."""
    unet = model.model.diffusion_model
    states, names = unet.state_dict(), _unet_names(family.name, family.folder, unet)
    weights = {f"unet.{key}": states[names[key]] for key in family.part("unet")}
    wrappers = model.conditioner.embedders if model.is_sdxl else [model.cond_stage_model]
    for part, wrapper in zip(("text_encoder", "text_encoder_2"), wrappers, strict=False):
        embedder = wrapper.wrapped
        if hasattr(embedder, "transformer"):
            weights |= {f"{part}.{key}": tensor for key, tensor in embedder.transformer.state_dict().items()}
            continue
        for key in family.part(part):
            tensor, rows = _open_clip_tensor(embedder.model, key)
            weights[f"{part}.{key}"] = tensor[rows].T if key == "text_projection.weight" else tensor[rows]
    return weights


def _import_extension(checkout: Path) -> None:
    """Make the extension importable without the web interface and the models that it loads."""
    for path in ("repositories/stable-diffusion-stability-ai", "extensions-builtin/Lora"):
        sys.path.insert(0, str(checkout / path))
    # The packages' own __init__ import the training code and torchvision.
    sgm, open_clip = checkout / "repositories" / "generative-models" / "sgm", importlib.util.find_spec("open_clip")
    assert open_clip is not None, "the interpreter lacks the package open_clip_torch"
    _stub("sgm").__path__ = [str(sgm)]
    _stub("sgm.modules").__path__ = [str(sgm / "modules")]
    _stub("open_clip").__path__ = list(open_clip.submodule_search_locations or ())
    web = _stub("modules")
    for name in ("shared", "devices", "sd_models", "errors", "scripts", "sd_hijack", "cache", "hashes", "patches"):
        setattr(web, name, _stub(f"modules.{name}"))
    for name in ("models", "models.sd3", "models.sd3.mmdit", "textual_inversion"):
        _stub(f"modules.{name}")
    _stub("modules.textual_inversion.textual_inversion")
    mmdit: Any = sys.modules["modules.models.sd3.mmdit"]
    mmdit.QkvLinear = type("QkvLinear", (), {})
    web.models = SimpleNamespace(sd3=SimpleNamespace(mmdit=mmdit))
    _stub("gradio")
    web.devices.cpu = web.devices.device = torch.device("cpu")
    web.devices.dtype = torch.float32
    web.sd_models.read_state_dict = load_file
    web.sd_models.read_metadata_from_safetensors = lambda path: safe_open(path, "pt").metadata()
    web.cache.cached_data_for_file = lambda kind, title, path, read: read()
    web.hashes.sha256_from_cache = lambda *names, **options: ""
    web.errors.display = _raise
    web.shared.cmd_opts = SimpleNamespace(lora_dir=str(checkout), lyco_dir_backcompat=str(checkout))
    web.shared.walk_files = lambda path, allowed_extensions: ()
    _stub("lora_patches")


def _stub(name: str) -> Any:
    sys.modules[name] = made = ModuleType(name)
    made.__path__ = []
    return made


def _raise(error: Exception, task: str) -> None:
    raise error


def main() -> None:
    checkout, folders = arguments()
    leave_out("torchvision", "omegaconf")
    _import_extension(checkout)
    run(load, ("kohya",), folders)


if __name__ == "__main__":
    main()
