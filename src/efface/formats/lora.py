"""A LoRA as diffusers and peft write it: `pipe.load_lora_weights(FILE)`.

    {unet, transformer}.MODULE.lora_A.weight                       A, (r, d_in)
    {unet, transformer}.MODULE.lora_B.weight                       B, (d_out, r)
    text_encoder.text_model.MODULE.lora_linear_layer.{down, up}.weight     A and B

There is no alpha, so the change is B A. An edit of the text alone is exact: r is its rank, B = W L and A = R^T, in
every layer that reads the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from efface.edits.kinds import WeightEdit
from efface.errors import BadFile
from efface.formats.base import Exported, Exporter, save
from efface.formats.low_rank import Factors, low_rank
from efface.formats.names import kohya_names, parameter_names, unwrapped
from efface.formats.reading import Checkpoint

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


_OF_UNETS = ("down_blocks.", "mid_block.", "up_blocks.")


def write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    """Write the file."""
    tensors: dict[str, Tensor] = {}
    made, denoiser = low_rank(eraser, model, rank), "unet" if has_unet(model) else "transformer"
    for factors in made:
        if factors.part == "denoiser":
            names = [f"{denoiser}.{factors.module}.lora_{letter}.weight" for letter in "AB"]
        else:
            # As files of text encoders are since transformers 4, which had their layers one level further down.
            module = f"{factors.part}.text_model.{factors.module.removeprefix('text_model.')}"
            names = [f"{module}.lora_linear_layer.{name}.weight" for name in ("down", "up")]
        tensors |= zip(names, factors.tensors(), strict=True)
    save(path, tensors, eraser, force)
    return summary(path, made)


def has_unet(model: Model) -> bool:
    """Whether the denoiser is a U-Net, by the names of the parameters that read the text."""
    return any(name.startswith(_OF_UNETS) for name in model.text_parameters())


def summary(path: Path, made: list[Factors]) -> Exported:
    """What was written."""
    lost, size = sum(factors.lost for factors in made), sum(factors.size for factors in made)
    return Exported(path, len(made), made[0].rank, (lost / size) ** 0.5 if size else 0.0)


EXPORTER = Exporter(
    name="lora",
    summary="A LoRA for diffusers: pipe.load_lora_weights(FILE).",
    suffix=".safetensors",
    write=write,
    takes_rank=True,
)


# LoRA files, of diffusers and peft and of kohya's sd-scripts, as low-rank edits with alpha folded in.
#
#     change of a module's weight = alpha / r up @ down
#
# With peft's rslora it is alpha / sqrt(r), and up @ down where no alpha is said.


_PIECE = re.compile(
    r"(?P<module>.+?)(?:"
    r"[._]lora(?:_linear_layer)?[._](?P<side>A|B|down|up)(?:\.default)?\.weight|(?:[._]lora)?\.(?P<alpha>alpha))$"
)
_FACTORS = ("lora", "hada_", "lokr_")  # the last two, LoHa and LoKr, are known to be refused
_METADATA = "lora_adapter_metadata"


@dataclass
class _Pieces:
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None


def is_lora(checkpoint: Checkpoint) -> bool:
    """Whether a file holds factors rather than weights."""
    return any(factor in name for name in checkpoint.tensors for factor in _FACTORS)


def is_kohya(checkpoint: Checkpoint) -> bool:
    """Whether a file of factors goes by kohya's names."""
    return any(name.startswith(("lora_unet_", "lora_te")) for name in checkpoint.tensors)


def lora_edits(checkpoint: Checkpoint, model: Model) -> list[WeightEdit]:
    """The edits that a LoRA makes.

    Raises:
        BadFile: it holds something else than plain factors, or is for another model.
    """
    kohya = is_kohya(checkpoint)
    table = kohya_names(model) if kohya else _modules(model)
    settings, edits = _settings(checkpoint), list[WeightEdit]()
    for module, pieces in _pieces(checkpoint).items():
        full = table.get(module if kohya else _plain(module))
        if full is None:
            raise BadFile(f"{checkpoint.path} is for another model: {model.name} has no module '{module}'.")
        if pieces.down is None or pieces.up is None:
            raise BadFile(f"{checkpoint.path} is not complete: of '{module}' it has one factor only.")
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


def _shape(model: Model, full: str) -> torch.Size:
    part, _, name = full.partition(".")
    return model.part(part).get_parameter(name).shape


def _pieces(checkpoint: Checkpoint) -> dict[str, _Pieces]:
    """The factors of each module, by its name in the file."""
    found: dict[str, _Pieces] = {}
    for name, read in checkpoint.tensors.items():
        piece = _PIECE.match(name)
        if piece is None:
            raise BadFile(f"{checkpoint.path} holds '{name}', which is of no plain LoRA; efface cannot import it.")
        pieces, side = found.setdefault(piece["module"], _Pieces()), piece["side"]
        if piece["alpha"]:
            pieces.alpha = float(read())
        elif side in ("A", "down"):
            pieces.down = read()
        else:
            pieces.up = read()
    return found


def _plain(module: str) -> str:
    """A module's name without what wrappers and old attention processors made of it."""
    module = unwrapped(module)
    if ".processor." not in module:
        return module
    module = module.replace(".processor.", ".")
    return f"{module}.0" if module.endswith("to_out") else module


def _modules(model: Model) -> dict[str, str]:
    names = parameter_names(model).items()
    return {spelled.removesuffix(".weight"): full for spelled, full in names if full.endswith(".weight")}


@dataclass(frozen=True)
class _Settings:
    """What a file or the one beside it says of alpha, by the part of the model that it is said of ("unet", or "")."""

    of_part: Mapping[str, Mapping[str, Any]]

    def of(self, module: str) -> tuple[float | None, bool]:
        """alpha of a module, and whether it is divided by the root of the rank."""
        part = module.split(".")[0]
        said = self.of_part.get(part, self.of_part.get("", {}))
        pattern: Mapping[str, float] = said.get("alpha_pattern") or {}
        alphas = [alpha for name, alpha in pattern.items() if module.endswith(name.lstrip("^"))]
        return (alphas[0] if alphas else said.get("lora_alpha")), bool(said.get("use_rslora"))


def _settings(checkpoint: Checkpoint) -> _Settings:
    """From diffusers' metadata, or from peft's `adapter_config.json` beside the file."""
    beside = checkpoint.path.with_name("adapter_config.json")
    try:
        if text := checkpoint.metadata.get(_METADATA):
            of_part: dict[str, dict[str, Any]] = {}
            for name, value in json.loads(text).items():
                part, _, key = name.rpartition(".")
                of_part.setdefault(part, {})[key] = value
            return _Settings(of_part)
        if checkpoint.path.name.startswith("adapter_model") and beside.is_file():
            return _Settings({"": json.loads(beside.read_text(encoding="utf-8"))})
    except (ValueError, AttributeError, OSError) as error:
        raise BadFile(f"Cannot read the settings of {checkpoint.path}: {error}.") from error
    return _Settings({})
