"""ComfyUI: `LoraLoader` and `CheckpointLoaderSimple`, that is `comfy.sd.load_lora_for_models` and
`comfy.sd.load_state_dict_guess_config`.

The table of models has their tiny widths besides, and the autoencoder gets its configuration, because both are fixed in
the code. All names and conversions are ComfyUI's.
"""

from __future__ import annotations

import logging
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clients.common import Family, Loaded, arguments, by_format, leave_out, module, run
from clients.ldm_configs import ENCODERS, UNETS, VAE

_IGNORED = re.compile(r"logit_scale|position_ids|clip_[lh]\.transformer\.text_projection")
_LAST_LAYER_OF_SD2 = re.compile(r"clip_h\.transformer\.text_model\.encoder\.layers\.23\.")
_MODELS = {"sd1": "SD15", "sd2": "SD20", "sdxl": "SDXL"}
_CLIPS = {"clip_l": "text_encoder", "clip_h": "text_encoder", "clip_g": "text_encoder_2"}


class _Log(logging.Handler):
    """Collects what ComfyUI reports."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def keys(self, *begins: str) -> list[str]:
        """The keys in the lines that begin so."""
        found = [line for line in self.lines if line.startswith(begins)]
        return [key for line in found for key in re.findall(r"'([^']+)'", line)]


LOG = _Log()


def load_lora(family: Family, path: Path) -> Loaded:
    model, clip = _opened(family.name, family.folder)
    LOG.lines.clear()
    file = module("comfy.utils").load_torch_file(str(path), safe_load=True)
    keys = len(file)
    new_model, new_clip = module("comfy.sd").load_lora_for_models(model, clip, file, 1.0, 1.0)
    lost = [line for line in LOG.lines if line.startswith(("lora key not loaded", "NOT LOADED"))]
    weights = _patched(family, new_model, new_clip.patcher)
    problems = [line for line in LOG.lines if "MISMATCH" in line or line.startswith("ERROR")]
    return Loaded(keys - len(lost), weights, "; ".join((lost + problems)[:3]))


def load_checkpoint(family: Family, path: Path) -> Loaded:
    sd, models = module("comfy.sd"), module("comfy.supported_models")
    published = getattr(models, _MODELS[family.name])
    tiny = type(published.__name__, (published,), {
        "unet_config": {**published.unet_config, **_widths(family.name)}, "unet_extra_config": _heads(family.name),
    })  # fmt: skip
    whole_vae, models.models = sd.VAE, [tiny]
    sd.VAE = partial(whole_vae, config={"params": VAE})
    LOG.lines.clear()
    file, metadata = module("comfy.utils").load_torch_file(str(path), return_metadata=True)
    keys = len(file)
    try:
        model, clip, vae, _ = sd.load_state_dict_guess_config(
            file, te_model_options=_text_options(family.name), metadata=metadata
        )
    finally:
        sd.VAE = whole_vae
    unused = LOG.keys("unet unexpected", "clip unexpected", "Leftover VAE", "left over")
    missing = LOG.keys("unet missing", "clip missing", "Missing VAE")
    last = [key for key in missing if family.name == "sd2" and _LAST_LAYER_OF_SD2.match(key)]
    missing = [key for key in missing if not _IGNORED.search(key) and key not in last]
    weights = _named(family, model.model.state_dict(), clip.cond_stage_model.state_dict())
    of_vae = vae.first_stage_model.state_dict()
    weights |= {f"vae.{name}": of_vae[theirs] for name, theirs in _vae_names(family).items()}
    notes = [f"missing: {', '.join(missing[:3])}" * bool(missing), f"unused: {', '.join(unused[:3])}" * bool(unused)]
    if last:
        notes.append("the 24th layer, which ComfyUI does not run and diffusers' folders lack, stays as initialised")
    return Loaded(keys - len(unused) if not missing else 0, weights, "; ".join(filter(None, notes)))


@cache
def _opened(name: str, folder: Path) -> tuple[Any, Any]:
    """The unedited model in ComfyUI's classes: the patchers of the denoiser and of the text encoders."""
    from safetensors.torch import load_file

    family = Family(name, folder, load_file(folder / "base.safetensors"), ())
    sd, models, torch_device = module("comfy.sd"), module("comfy.supported_models"), torch.device("cpu")
    config = getattr(models, _MODELS[name])(UNETS[name])
    config.unet_config |= _heads(name)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=torch_device)
    unet = family.part("unet")
    names = module("comfy.utils").unet_to_diffusers(config.unet_config)
    model.diffusion_model.load_state_dict({names[key]: tensor for key, tensor in unet.items()})
    clip = sd.CLIP(config.clip_target(), model_options=_text_options(name))
    for part in dict.fromkeys(_CLIPS[encoder] for encoder in ENCODERS[name]):
        clip.load_sd(family.part(part))
    patcher = module("comfy.model_patcher").ModelPatcher
    return patcher(model, load_device=torch_device, offload_device=torch_device), clip


def _patched(family: Family, *patchers: Any) -> dict[str, Tensor]:
    """All weights, (...), with the patches that ComfyUI applies when the model runs."""
    states: list[dict[str, Tensor]] = []
    for patcher in patchers:
        for key in patcher.patches:
            patcher.patch_weight_to_device(key)
        states.append({name: tensor.clone() for name, tensor in patcher.model.state_dict().items()})
        patcher.unpatch_model()
    return _named(family, *states)


def _named(family: Family, unet: dict[str, Tensor], clip: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of denoiser and text encoders, (...), by diffusers' names, through ComfyUI's own table."""
    names = module("comfy.utils").unet_to_diffusers({**UNETS[family.name], **_heads(family.name)})
    weights = {f"unet.{name}": unet[f"diffusion_model.{names[name]}"] for name in family.part("unet")}
    for encoder in ENCODERS[family.name]:
        part = _CLIPS[encoder]
        weights |= {f"{part}.{name}": clip[f"{encoder}.transformer.{name}"] for name in family.part(part)}
    return weights


def _vae_names(family: Family) -> dict[str, str]:
    """From diffusers' names of the autoencoder's weights to the original ones, by ComfyUI's own conversion."""
    base = family.part("vae")
    numbered = {name: torch.full_like(tensor, index) for index, (name, tensor) in enumerate(base.items())}
    converted = module("comfy.diffusers_convert").convert_vae_state_dict(dict(numbered))
    of_number = {int(tensor.flatten()[0]): name for name, tensor in converted.items()}
    return {name: of_number[index] for index, name in enumerate(numbered)}


def _widths(name: str) -> dict[str, Any]:
    return {key: UNETS[name][key] for key in ("model_channels", "context_dim", "adm_in_channels")}


def _heads(name: str) -> dict[str, Any]:
    return {key: UNETS[name][key] for key in ("num_heads", "num_head_channels")}


def _text_options(name: str) -> dict[str, Any]:
    return {f"{encoder}_model_config": sizes for encoder, sizes in ENCODERS[name].items()}


def main() -> None:
    _, folders = arguments()
    leave_out("torchvision", "torchaudio")
    args = module("comfy.cli_args").args
    args.cpu = args.fp32_unet = args.fp32_text_enc = args.fp32_vae = True
    logging.getLogger().addHandler(LOG)
    logging.getLogger().setLevel(logging.DEBUG)
    run(by_format(load_lora, load_checkpoint), ("kohya", "single-file"), folders)


if __name__ == "__main__":
    main()
