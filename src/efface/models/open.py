"""From a name to a model: the embedded one, a diffusers folder, a hub id, or a pipeline that is already loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.errors import BadInput
from efface.models.base import Model
from efface.models.folder import INDEX, Folder

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

EMBEDDED = {"emoji": Path(__file__).parent / "emoji" / "weights"}

# The families, by the pipelines that have their parts.
_SD = "efface.models.sd:StableDiffusion"
FAMILIES = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionImg2ImgPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "StableDiffusionControlNetPipeline": _SD,
}

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def open_model(
    model: str | Path | DiffusionPipeline, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Model:
    """Open a model; its parts are loaded when they are first used.

    Args:
        model: `emoji`, a diffusers folder, a hub id, or a loaded diffusers pipeline, whose parts are then shared.
        device: where to put the parts; a pipeline's stay where they are.
        dtype: type of the parts; None is float32, and a pipeline's own.

    Raises:
        BadInput: there is no such model; the message says what was tried.
    """
    if not isinstance(model, (str, Path)):
        family = _family([kind.__name__ for kind in type(model).__mro__], type(model).__name__)
        return family.from_pipeline(model)
    name = str(model)
    folder = _folder(name)
    family = _family([str(folder.index().get("_class_name"))], name)
    return family.from_folder(name, folder, torch.device(device), dtype or torch.float32)


def _family(classes: list[str], name: str) -> Any:
    for pipeline in classes:
        if pipeline in FAMILIES:
            module, attribute = FAMILIES[pipeline].split(":")
            return getattr(import_module(module), attribute)
    raise BadInput(f"{name} is a {classes[0]}, which efface cannot open yet; it opens: {', '.join(FAMILIES)}.")


def _folder(name: str) -> Folder:
    if name in EMBEDDED:
        return Folder(EMBEDDED[name])
    if (Path(name) / INDEX).is_file():
        return Folder(Path(name))
    tried = [f"not an embedded model ({', '.join(EMBEDDED)})"]
    tried.append(f"a folder without {INDEX}" if Path(name).is_dir() else "not a diffusers folder")
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        found = _from_hub(name)
        if isinstance(found, Folder):
            return found
        tried.append(f"not brought from the hub ({found})")
    raise BadInput(f"Unknown model '{name}': {', '.join(tried)}.")


def _from_hub(name: str) -> Folder | str:
    """The hub's snapshot without its weights, which follow part by part; or why there is none."""
    from huggingface_hub import snapshot_download

    try:
        root = Path(snapshot_download(name, allow_patterns=[INDEX, "*/*.json", "*/*.txt"]))
    except Exception as error:
        return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    if not (root / INDEX).is_file():
        return f"it has no {INDEX}"
    return Folder(root, _bringing(name, root))


def _bringing(name: str, root: Path) -> Callable[[str], None]:
    def bring(part: str) -> None:
        from huggingface_hub import snapshot_download

        if not any((root / part).glob("*.safetensors")):
            snapshot_download(name, allow_patterns=[f"{part}/*.safetensors"], ignore_patterns=["*.fp16*", "*non_ema*"])
        if not any((root / part).glob("*.safetensors")):
            snapshot_download(name, allow_patterns=[f"{part}/*.safetensors"])

    return bring
