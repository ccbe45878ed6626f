"""LoRA files of diffusers and peft: `pipe.load_lora_weights(FILE)`. The reader accepts kohya's files too.

    {unet, transformer}.MODULE.lora_A.weight                       A, (r, d_in)
    {unet, transformer}.MODULE.lora_B.weight                       B, (d_out, r)
    text_encoder.text_model.MODULE.lora_linear_layer.{down, up}.weight     A and B

Written files have no alpha, so the change is B A. A text edit alone is exact: r is its rank, B = W L and A = R^T, in
every layer that reads the text.

Files that are read become low-rank edits with alpha folded in:

    change of a module's weight = alpha / r up @ down

With peft's rslora the factor is alpha / sqrt(r), and without alpha it is 1. Differences of whole weights and biases,
under `diff` and `diff_b`, are read too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ConfigDict
from torch import Tensor

from efface.edits.kinds import WeightEdit
from efface.errors import BadFile
from efface.formats.base import Exported, Exporter, save_lora
from efface.formats.loaded_lora import check_loads
from efface.formats.low_rank import Factors, low_rank
from efface.formats.model_spec import model_spec
from efface.formats.names import kohya_names, parameter_names, unwrapped
from efface.formats.reading import Checkpoint
from efface.parsing import Schema, library_errors, parse_json, read_json

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


_PIECE = re.compile(
    r"(?P<module>.+?)(?:"
    r"[._]lora(?:_linear_layer)?[._](?P<side>A|B|down|up)(?:\.default)?\.weight|(?:[._]lora)?\.(?P<alpha>alpha))$"
)
_FACTORS = ("lora", "hada_", "lokr_")  # LoHa and LoKr, the last two, are recognised to be refused
_DIFFERENCE = re.compile(r"(?P<module>.+)\.(?P<key>diff|diff_b)$")
_METADATA = "lora_adapter_metadata"


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    tensors: dict[str, Tensor] = {}
    modules, denoiser = low_rank(eraser, model, rank), model.denoiser_part
    for factors in modules:
        if factors.part == "denoiser":
            names = [f"{denoiser}.{factors.module}.lora_{letter}.weight" for letter in "AB"]
        else:
            # These files have the names of transformers 4, in which the layers are one level deeper.
            module = f"{factors.part}.text_model.{factors.module.removeprefix('text_model.')}"
            names = [f"{module}.lora_linear_layer.{name}.weight" for name in ("down", "up")]
        tensors |= zip(names, factors.tensors(), strict=True)
    check_loads(model, tensors, modules)
    save_lora(path, tensors, eraser, model, force, **model_spec(eraser, model))
    return exported_lora(path, modules)


def has_unet(model: Model) -> bool:
    """Whether the denoiser is a U-Net."""
    return model.denoiser_part == "unet"


def exported_lora(path: Path, modules: list[Factors]) -> Exported:
    """The summary of a written LoRA, with the error of the rank limit."""
    lost, size = sum(factors.lost for factors in modules), sum(factors.size for factors in modules)
    return Exported(path, len(modules), modules[0].rank, (lost / size) ** 0.5 if size else 0.0)


@dataclass
class _Pieces:
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None


def is_lora(checkpoint: Checkpoint) -> bool:
    """Whether a file has LoRA factors and not weights."""
    return any(factor in name for name in checkpoint.tensors for factor in _FACTORS)


def is_kohya(checkpoint: Checkpoint) -> bool:
    """Whether a LoRA file has kohya's names."""
    return any(name.startswith(("lora_unet_", "lora_te")) for name in checkpoint.tensors)


def lora_edits(checkpoint: Checkpoint, model: Model) -> list[WeightEdit]:
    """The weight edits of a LoRA file.

    Raises:
        BadFile: The file has other content than plain factors, or is for another model.
    """
    kohya = is_kohya(checkpoint)
    table = kohya_names(model) if kohya else _modules(model)
    settings, edits = _settings(checkpoint), _differences(checkpoint, table, model)
    for module, pieces in _pieces(checkpoint).items():
        full = table.get(unwrapped(module) if kohya else _plain(module))
        if full is None:
            raise BadFile(f"{checkpoint.path} is for another model: {model.name} has no module '{module}'.")
        if pieces.down is None or pieces.up is None:
            raise BadFile(f"{checkpoint.path} is incomplete: it has only one factor of '{module}'.")
        down, up = pieces.down.flatten(1).float(), pieces.up.flatten(1).float()
        alpha, root = (pieces.alpha, False) if pieces.alpha is not None else settings.of(module)
        if alpha is not None:
            up = up * (alpha / (len(down) ** (0.5 if root else 1.0)))
        edit = WeightEdit(full, up=up.contiguous(), down=down.contiguous())
        if up.shape[1] != len(down) or not edit.fits(_shape(model, full)):
            raise BadFile(f"{checkpoint.path} is for another model: its factors of '{module}' do not fit {full}.")
        if up.any() and down.any():
            edits.append(edit)
    return edits


def _differences(checkpoint: Checkpoint, table: Mapping[str, str], model: Model) -> list[WeightEdit]:
    """The weight edits of differences, under `diff` for weights and `diff_b` for biases.

    Raises:
        BadFile: A difference is for another model.
    """
    edits: list[WeightEdit] = []
    for name, read in checkpoint.tensors.items():
        piece = _DIFFERENCE.match(name)
        if piece is None:
            continue
        full = table.get(unwrapped(piece["module"]), "").removesuffix(".weight")
        parameter = f"{full}.{'bias' if piece['key'] == 'diff_b' else 'weight'}"
        edit = WeightEdit(parameter, delta=read().float().contiguous())
        if not full or not edit.fits(_shape(model, parameter)):
            raise BadFile(f"{checkpoint.path} is for another model: '{name}' does not fit {model.name}.")
        edits.append(edit)
    return edits


def _shape(model: Model, full: str) -> torch.Size:
    part, _, name = full.partition(".")
    return model.part(part).get_parameter(name).shape


def _pieces(checkpoint: Checkpoint) -> dict[str, _Pieces]:
    """The factors of each module, by its name in the file."""
    modules: dict[str, _Pieces] = {}
    for name, read in checkpoint.tensors.items():
        if _DIFFERENCE.match(name):
            continue
        piece = _PIECE.match(name)
        if piece is None:
            raise BadFile(
                f"{checkpoint.path} has '{name}', which is not part of a plain LoRA; efface cannot import it."
            )
        pieces, side = modules.setdefault(piece["module"], _Pieces()), piece["side"]
        if piece["alpha"]:
            pieces.alpha = float(read())
        elif side in ("A", "down"):
            pieces.down = read()
        else:
            pieces.up = read()
    return modules


def _plain(module: str) -> str:
    """A module's name without the additions of wrappers and old attention processors."""
    module = unwrapped(module)
    if ".processor." not in module:
        return module
    module = module.replace(".processor.", ".")
    return f"{module}.0" if module.endswith("to_out") else module


def _modules(model: Model) -> dict[str, str]:
    names = parameter_names(model).items()
    return {spelled.removesuffix(".weight"): full for spelled, full in names if full.endswith(".weight")}


class AlphaSettings(Schema):
    """The settings of alpha, which peft writes among others."""

    model_config = ConfigDict(extra="ignore")

    alpha_pattern: dict[str, float] | None = None
    lora_alpha: float | None = None
    use_rslora: bool | None = None


@dataclass(frozen=True)
class _Settings:
    """The settings of alpha in a file or next to it, by part of the model ("unet", or "" for all)."""

    of_part: Mapping[str, AlphaSettings]

    def of(self, module: str) -> tuple[float | None, bool]:
        """The alpha of a module, and whether it is divided by the square root of the rank."""
        part = module.split(".")[0]
        settings = self.of_part.get(part, self.of_part.get("", AlphaSettings()))
        pattern = settings.alpha_pattern or {}
        alphas = [alpha for name, alpha in pattern.items() if module.endswith(name.lstrip("^"))]
        return (alphas[0] if alphas else settings.lora_alpha), bool(settings.use_rslora)


def _settings(checkpoint: Checkpoint) -> _Settings:
    """Read the settings from diffusers' metadata, or from peft's `adapter_config.json` next to the file."""
    adapter_config = checkpoint.path.with_name("adapter_config.json")
    of_part: dict[str, dict[str, Any]] = {}
    if text := checkpoint.metadata.get(_METADATA):
        with library_errors(f"Cannot read the settings of {checkpoint.path}"):
            for name, value in parse_json(text).items():
                part, _, key = name.rpartition(".")
                of_part.setdefault(part, {})[key] = value
    elif checkpoint.path.name.startswith("adapter_model") and adapter_config.is_file():
        of_part[""] = dict(read_json(adapter_config))
    return _Settings(
        {part: AlphaSettings.checked(some, f"The settings of {checkpoint.path}") for part, some in of_part.items()}
    )


ENTRY = Exporter(
    name="lora",
    summary="A LoRA for diffusers: pipe.load_lora_weights(FILE).",
    suffix=".safetensors",
    write=_write,
    takes_rank=True,
)
