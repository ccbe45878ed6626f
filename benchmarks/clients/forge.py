"""Forge: its LoRA extension (`load_lora_for_models`) and its loader of checkpoints (`forge_loader`'s steps).

Forge downloads `huggingface_guess`; its checkout has to be in `repositories/huggingface_guess`. The classes, names and
conversions are Forge's. The configurations of the parts come from here, because Forge has them in published widths
only.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from clients.common import Family, Loaded, arguments, by_format, leave_out, module, run
from clients.ldm_configs import ENCODERS, UNETS

_CLIPS = {"clip_l": "text_encoder", "clip_h": "text_encoder", "clip_g": "text_encoder_2"}
_GUESSES = {"sd1": "SD15", "sd2": "SD20", "sdxl": "SDXL"}
_HEADS = {"clip_l": 2, "clip_h": 2, "clip_g": 2}


def load_lora(family: Family, path: Path) -> Loaded:
    unet, clip = _opened(family)
    file = module("backend.utils").load_torch_file(str(path), safe_load=True)
    lora = module("backend.patcher.lora")
    _, rest = lora.load_lora(file, lora.model_lora_keys_unet(unet.model, {}))
    _, rest = lora.load_lora(rest, lora.model_lora_keys_clip(clip.cond_stage_model, {}))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        new_unet, new_clip = module("networks").load_lora_for_models(unet, clip, file, 1.0, 1.0, str(path))
        for patcher in (new_unet, new_clip.patcher):
            patcher.refresh_loras()
    weights = _named(family, new_unet.model.state_dict(), new_clip.cond_stage_model.state_dict())
    problems = [line for line in printed.getvalue().splitlines() if "ismatch" in line or "unmatched" in line]
    return Loaded(len(file) - len(rest), weights, "; ".join(problems)[:300])


def load_checkpoint(family: Family, path: Path) -> Loaded:
    models = module("huggingface_guess.model_list")
    published = getattr(models, _GUESSES[family.name])
    widths = {key: UNETS[family.name][key] for key in ("model_channels", "context_dim", "adm_in_channels")}
    heads = {key: UNETS[family.name][key] for key in ("num_heads", "num_head_channels")}
    tiny = {"unet_config": {**published.unet_config, **widths}, "unet_extra_config": heads}
    models.models = [type(published.__name__, (published,), tiny)]
    keys = len(module("backend.utils").load_torch_file(str(path)))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        parts, guess = module("backend.loader").split_state_dict(str(path))
        unet = _unet(family.name, guess.unet_config)
        module("backend.state_dict").load_state_dict(unet, parts[guess.unet_target])
        clips = {name: _clip(family.name, name, parts[guess.clip_target[name]]) for name in ENCODERS[family.name]}
    lines = printed.getvalue().splitlines()
    problems = [line for line in lines if "Missing" in line or "Unexpected" in line]
    used = sum(map(len, parts.values()))
    note = "the autoencoder is not loaded; " + "; ".join(problems)[:300]
    states = {f"diffusion_model.{name}": tensor for name, tensor in unet.state_dict().items()}
    texts = {f"{name}.{key}": tensor for name, clip in clips.items() for key, tensor in clip.state_dict().items()}
    return Loaded(min(keys, used), _named(family, states, texts), note.strip("; "))


def _opened(family: Family) -> tuple[Any, Any]:
    """The unedited model in Forge's classes: the patchers of the denoiser and of the text encoders."""
    name = family.name
    unet = _unet(name, UNETS[name])
    names = _unet_names(name)
    unet.load_state_dict({names[key]: tensor for key, tensor in family.part("unet").items()})
    unet._internal_dict = UNETS[name]
    unet.storage_dtype = unet.computation_dtype = torch.float32
    unet.load_device = unet.initial_device = unet.offload_device = torch.device("cpu")
    repository = {"sd1": "runwayml/stable-diffusion-v1-5", "sd2": "stabilityai/stable-diffusion-2-1"}
    config = SimpleNamespace(huggingface_repo=repository.get(name, "stabilityai/stable-diffusion-xl-base-1.0"))
    patcher = module("backend.patcher.unet").UnetPatcher.from_model(unet, None, config, k_predictor=torch.nn.Identity())
    encoders = {
        encoder: _clip(name, encoder, {f"transformer.{key}": w for key, w in family.part(_CLIPS[encoder]).items()})
        for encoder in ENCODERS[name]
    }
    return patcher, module("backend.patcher.clip").CLIP(encoders, {})


def _unet(name: str, config: dict[str, Any]) -> Any:
    known = {key: value for key, value in config.items() if key not in ("use_checkpoint", "image_size", "legacy")}
    known = {key: value for key, value in known.items() if not key.startswith("use_temporal")}
    with module("backend.operations").using_forge_operations(device=torch.device("cpu"), dtype=torch.float32):
        return module("backend.nn.unet").IntegratedUNet2DConditionModel.from_config(known).to(torch.float32)


def _clip(name: str, encoder: str, state: dict[str, Tensor]) -> Any:
    transformers = module("transformers")
    layers = {"clip_l": 12, "clip_h": 24, "clip_g": 32}[encoder]
    if name == "sd2" and not any(".layers.23." in key for key in state):
        layers = 23
    sizes = ENCODERS[name][encoder]
    config = transformers.CLIPTextConfig(num_hidden_layers=layers, vocab_size=49408, **sizes)
    operations = module("backend.operations").using_forge_operations(device=torch.device("cpu"), dtype=torch.float32)
    with transformers.modeling_utils.no_init_weights(), operations:
        model = module("backend.nn.clip").IntegratedCLIP(transformers.CLIPTextModel, config, add_text_projection=True)
    ignored = ["transformer.text_projection.weight", "transformer.text_model.embeddings.position_ids", "logit_scale"]
    module("backend.state_dict").load_state_dict(model.to(torch.float32), state, ignored, encoder)
    return model


def _unet_names(name: str) -> dict[str, str]:
    return module("packages_3rdparty.comfyui_lora_collection.utils").unet_to_diffusers(UNETS[name])


def _named(family: Family, unet: dict[str, Tensor], clip: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of denoiser and text encoders, (...), by diffusers' names, through Forge's own table."""
    names = _unet_names(family.name)
    weights = {f"unet.{name}": unet[f"diffusion_model.{names[name]}"] for name in family.part("unet")}
    for encoder in ENCODERS[family.name]:
        part = _CLIPS[encoder]
        weights |= {f"{part}.{name}": clip[f"{encoder}.transformer.{name}"] for name in family.part(part)}
    return weights


def _import_extension(checkout: Path) -> None:
    """Make the extension's module `networks` importable without the web interface."""
    sys.path[:0] = [str(checkout / "repositories" / "huggingface_guess"), str(checkout / "packages_3rdparty")]
    web: Any = ModuleType("modules")
    web.__path__ = []
    for name in ("shared", "sd_models", "errors", "scripts"):
        sys.modules[f"modules.{name}"] = made = ModuleType(name)
        setattr(web, name, made)
    web.shared.opts = SimpleNamespace()
    web.shared.cmd_opts = SimpleNamespace(lora_dir=str(checkout))
    web.shared.walk_files = lambda path, allowed_extensions: ()
    sys.modules |= {"modules": web, "network": ModuleType("network")}
    path = checkout / "extensions-builtin" / "sd_forge_lora" / "networks.py"
    spec = importlib.util.spec_from_file_location("networks", path)
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    sys.modules["networks"] = networks
    spec.loader.exec_module(networks)


def main() -> None:
    checkout, folders = arguments()
    leave_out("torchvision", "sentencepiece")
    sys.argv += ["--all-in-fp32", "--always-cpu"]
    _import_extension(checkout)
    run(by_format(load_lora, load_checkpoint), ("kohya", "single-file"), folders)


if __name__ == "__main__":
    main()
