"""Open a model: a built-in one, a folder, a checkpoint, a hub id, or a pipeline that is already loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.errors import BadInput
from efface.models.builtin import BuiltIn
from efface.models.emoji import EMOJI
from efface.models.emoji_flow import EMOJI_FLOW
from efface.models.model import Model
from efface.models.modules import plain
from efface.models.placement import check_in_memory
from efface.models.runtime import Runtime, chosen_dtype, resolve_device
from efface.models.storage.folder import INDEX, Folder
from efface.models.storage.single_file import EMA, SUFFIXES, SingleFile

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

BUILT_IN: dict[str, BuiltIn] = {"emoji": EMOJI, "emoji-flow": EMOJI_FLOW}

# Families by the pipelines that have their parts.
_SD = "efface.models.families.sd:StableDiffusion"
_SDXL = "efface.models.families.sdxl:StableDiffusionXL"
_SD3 = "efface.models.families.sd3:StableDiffusion3"
_FLUX = "efface.models.families.flux:Flux"
FAMILIES = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionImg2ImgPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "StableDiffusionControlNetPipeline": _SD,
    "StableDiffusionXLPipeline": _SDXL,
    "StableDiffusionXLImg2ImgPipeline": _SDXL,
    "StableDiffusionXLInpaintPipeline": _SDXL,
    "StableDiffusionXLControlNetPipeline": _SDXL,
    "StableDiffusion3Pipeline": _SD3,
    "StableDiffusion3Img2ImgPipeline": _SD3,
    "StableDiffusion3InpaintPipeline": _SD3,
    "StableDiffusion3ControlNetPipeline": _SD3,
    "FluxPipeline": _FLUX,
    "FluxImg2ImgPipeline": _FLUX,
    "FluxInpaintPipeline": _FLUX,
    "FluxControlNetPipeline": _FLUX,
}

# Further pipelines of a family are recognised by their denoiser and their text encoders.
_PARTS: dict[str, dict[str, str]] = {
    _SD: {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"},
    _SDXL: {
        "unet": "UNet2DConditionModel",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
    },
    _SD3: {
        "transformer": "SD3Transformer2DModel",
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
    },
    _FLUX: {
        "transformer": "FluxTransformer2DModel",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "T5EncoderModel",
    },
}
_READING_TEXT = re.compile(r"unet|transformer|text_encoder|prior")

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def open_model(
    model: str | Path | Model | DiffusionPipeline,
    device: str | torch.device | Runtime = "cpu",
    dtype: torch.dtype | None = None,
    config: str | Path | None = None,
) -> Model:
    """Open a model; its parts are loaded when they are first used.

    Args:
        model: `emoji`, `emoji-flow`, a diffusers folder, a single-file checkpoint of Stable Diffusion 1.x, 2.x or XL
            (with the suffix `#ema`, its averaged weights), a hub id, or a loaded diffusers pipeline, whose parts are
            shared. A `Model` is returned unchanged.
        device: The device of the parts, or how they are loaded and run; the parts of a pipeline stay as they are.
        dtype: The type of the parts; None is that of the runtime, which is float32 for models of up to 3 B parameters,
            or the type of the pipeline.
        config: A diffusers folder with the configuration and tokenizer of a checkpoint, if they are not the published
            ones.

    Raises:
        BadInput: There is no such model, and the message lists what was tried; or its weights are not in memory.
    """
    if isinstance(model, Model):
        return model
    if not isinstance(model, (str, Path)):
        if not isinstance(getattr(model, "components", None), dict):
            raise BadInput(f"A {type(model).__name__} is neither the name of a model nor a diffusers pipeline.")
        check_in_memory(model.components)
        kind = type(model)
        names = [ancestor.__name__ for ancestor in kind.__mro__]
        parts = {name: type(plain(part)).__name__ for name, part in model.components.items() if part is not None}
        family = _known(names) or _unlisted(kind, kind.__name__, set(model.components), parts)
        return family.from_pipeline(model)
    name = str(model)
    checkpoint = _checkpoint(name, config)
    if checkpoint is None and config is not None:
        raise BadInput(f"{name} is not a single-file checkpoint and takes no config; leave it out.")
    folder = checkpoint or _folder(name)
    index = folder.index()
    pipeline = str(index.get("_class_name"))
    entries = {part: entry for part, entry in index.items() if isinstance(entry, list)}
    parts = {part: str(entry[-1]) for part, entry in entries.items() if entry and entry[-1]}
    family = _known([pipeline]) or _unlisted(pipeline, name, set(entries), parts)
    runtime = device if isinstance(device, Runtime) else Runtime(str(device))
    place = torch.device(resolve_device(runtime.device))
    dtype = dtype or chosen_dtype(runtime, folder, family.denoiser_part, family.family, place)
    opened: Model = family.from_folder(name, folder, place, dtype)
    opened.built_in, opened.runtime = BUILT_IN.get(name), runtime
    if runtime.is_changing:
        opened.part("denoiser")  # an option that it does not support is an error before there is any output
    return opened


def _known(classes: list[str]) -> Any:
    family = next((FAMILIES[pipeline] for pipeline in classes if pipeline in FAMILIES), None)
    return None if family is None else _imported(family)


def _unlisted(pipeline: str | type, name: str, parts: Collection[str], classes: Mapping[str, str]) -> Any:
    """The family whose pipelines have such parts, some of which may be left out; else the generic family.

    Args:
        pipeline: The pipeline, or its name.
        name: The name that the model was opened by.
        parts: The names of all its parts.
        classes: The classes of those that are not left out.
    """
    from efface.models.families.generic import family_of

    generic = family_of(pipeline, name)
    reading = {part for part in parts if _READING_TEXT.search(part)}
    read = {part: kind for part, kind in classes.items() if part in reading}
    enough = any("encoder" in part for part in read) and any("encoder" not in part for part in read)
    for family, expected in _PARTS.items():
        if reading == expected.keys() and enough and read.items() <= expected.items():
            return _imported(family)
    return generic


def _imported(family: str) -> Any:
    module, attribute = family.split(":")
    return getattr(import_module(module), attribute)


def _checkpoint(name: str, config: str | Path | None) -> SingleFile | None:
    path = Path(name.removesuffix(EMA))
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return None
    return SingleFile.of(path, name.endswith(EMA), None if config is None else Path(config))


def _folder(name: str) -> Folder:
    if name in BUILT_IN:
        return Folder(BUILT_IN[name].folder)
    if (Path(name) / INDEX).is_file():
        return Folder(Path(name))
    tried = [f"not an embedded model ({', '.join(BUILT_IN)})"]
    if Path(name).is_dir():
        tried.append(f"a folder without {INDEX}")
    elif Path(name).is_file():
        tried.append(f"a file that is not named {' or '.join(SUFFIXES)}")
    else:
        tried.append("not a diffusers folder")
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        fetched = _from_hub(name)
        if isinstance(fetched, Folder):
            return fetched
        tried.append(f"not found on the hub ({fetched})")
    raise BadInput(f"Unknown model '{name}': {', '.join(tried)}.")


def _from_hub(name: str) -> Folder | str:
    """The hub's snapshot without weights, which are downloaded part by part; or the reason why there is none."""
    from huggingface_hub import snapshot_download

    try:
        root = Path(snapshot_download(name, allow_patterns=[INDEX, "*/*.json", "*/*.txt", "*/*.model"]))
    except Exception as error:
        return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    if not (root / INDEX).is_file():
        return f"it has no {INDEX}"
    return Folder(root, _fetching(name, root))


def _fetching(name: str, root: Path) -> Callable[[str], None]:
    def fetch(part: str) -> None:
        from huggingface_hub import snapshot_download

        if not any((root / part).glob("*.safetensors")):
            snapshot_download(name, allow_patterns=[f"{part}/*.safetensors"], ignore_patterns=["*.fp16*", "*non_ema*"])
        if not any((root / part).glob("*.safetensors")):
            snapshot_download(name, allow_patterns=[f"{part}/*.safetensors"])

    return fetch
