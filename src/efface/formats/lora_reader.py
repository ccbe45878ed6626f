"""Read LoRA files of diffusers, peft, kohya, AI-toolkit, BFL, XLabs and OneTrainer as low-rank edits.

    change of a layer's weight = alpha / r up @ down

With peft's rslora the factor is alpha / sqrt(r), and without alpha it is 1; it is multiplied into `up`. Differences of
whole weights and biases, under `diff` and `diff_b`, are read too. A layer that joins several of the model's (see
`lora_names`) becomes an edit of each, with its rows of `up` and the columns in which these are not zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ConfigDict
from torch import Tensor

from efface.edits.kinds import WeightEdit
from efface.errors import BadFile
from efface.formats.lora_names import KOHYA, LoraNames, LoraTarget
from efface.formats.reading import Checkpoint
from efface.parsing import Schema, library_errors, parse_json, read_json

if TYPE_CHECKING:
    from efface.models import Model

_PIECE = re.compile(
    r"(?P<module>.+?)(?:"
    r"[._]lora(?:_linear_layer)?(?P<number>[12])?[._](?P<side>A|B|down|up)(?:\.default)?\.weight"
    r"|(?:[._]lora)?\.(?P<alpha>alpha))$"
)
_FACTORS = ("lora", "hada_", "lokr_")  # LoHa and LoKr, the last two, are recognised to be refused
_DIFFERENCE = re.compile(r"(?P<module>.+)\.(?P<key>diff|diff_b)$")
_METADATA = "lora_adapter_metadata"


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
    return any(name.startswith(KOHYA) for name in checkpoint.tensors)


def lora_edits(checkpoint: Checkpoint, model: Model) -> list[WeightEdit]:
    """The weight edits of a LoRA file.

    Raises:
        BadFile: The file has other content than plain factors, or is for another model.
    """
    names, settings = LoraNames(model), _settings(checkpoint)
    edits = _differences(checkpoint, names, model)
    read: dict[str, WeightEdit] = {}
    for module, pieces in _pieces(checkpoint).items():
        target = names.find(module)
        if target is None:
            raise BadFile(f"{checkpoint.path} is for another model: {model.name} has no module '{module}'.")
        if pieces.down is None or pieces.up is None:
            raise BadFile(f"{checkpoint.path} is incomplete: it has only one factor of '{module}'.")
        down, up = pieces.down.flatten(1).float(), pieces.up.flatten(1).float()
        alpha, root = (pieces.alpha, False) if pieces.alpha is not None else settings.of(module)
        if alpha is not None:
            up = up * (alpha / (len(down) ** (0.5 if root else 1.0)))
        changes = _edits(target, up, down, model) if up.shape[1] == len(down) else []
        if not changes or not all(edit.fits(_shape(model, edit.parameter)) for edit in changes):
            raise BadFile(
                f"{checkpoint.path} is for another model: its factors of '{module}' do not fit {target.weights[0]}."
            )
        for edit in changes:
            if edit.parameter in read and not _are_equal(edit, read[edit.parameter]):
                raise BadFile(f"{checkpoint.path} has two different changes of {edit.parameter}.")
            read[edit.parameter] = edit
    return edits + [edit for edit in read.values() if all(factor.any() for factor in edit.tensors().values())]


def _edits(target: LoraTarget, up: Tensor, down: Tensor, model: Model) -> list[WeightEdit]:
    """The edits of a layer by its factors (d_out, r) and (r, d_in); empty if `up` has another number of rows."""
    edits: list[WeightEdit] = []
    for full, rows in _rows(target, up, model).items():
        # Each part of a joined layer may have separate factors.
        used = rows.any(0) if len(target.weights) > 1 else slice(None)
        edits.append(WeightEdit(full, up=rows[:, used].contiguous(), down=down[used].contiguous()))
    return edits


def _rows(target: LoraTarget, tensor: Tensor, model: Model, leaf: str = "weight") -> dict[str, Tensor]:
    """The rows of a tensor by the parameter whose rows they are; empty if their number is another."""
    parameters = [f"{full.removesuffix('weight')}{leaf}" for full in target.weights]
    sizes = [_shape(model, full)[0] for full in parameters]
    if len(tensor) != sum(sizes):
        return {}
    if target.is_swapped:
        tensor = torch.cat(tensor.chunk(2)[::-1])
    return dict(zip(parameters, tensor.split(sizes), strict=True))


def _are_equal(one: WeightEdit, other: WeightEdit) -> bool:
    pairs = zip(one.tensors().values(), other.tensors().values(), strict=True)
    return all(torch.equal(tensor, second) for tensor, second in pairs)


def _differences(checkpoint: Checkpoint, names: LoraNames, model: Model) -> list[WeightEdit]:
    """The weight edits of differences, under `diff` for weights and `diff_b` for biases.

    Raises:
        BadFile: A difference is for another model.
    """
    edits: list[WeightEdit] = []
    for name, read in checkpoint.tensors.items():
        piece = _DIFFERENCE.match(name)
        if piece is None:
            continue
        target = names.find(piece["module"])
        leaf = "bias" if piece["key"] == "diff_b" else "weight"
        rows = {} if target is None else _rows(target, read().float(), model, leaf)
        changes = [WeightEdit(full, delta=delta.contiguous()) for full, delta in rows.items()]
        if not changes or not all(edit.fits(_shape(model, edit.parameter)) for edit in changes):
            raise BadFile(f"{checkpoint.path} is for another model: '{name}' does not fit {model.name}.")
        edits += [edit for edit in changes if edit.delta is not None and edit.delta.any()]
    return edits


def _shape(model: Model, full: str) -> torch.Size:
    part, _, name = full.partition(".")
    return model.part(part).get_parameter(name).shape


def _pieces(checkpoint: Checkpoint) -> dict[str, _Pieces]:
    """The factors of each layer, by its name in the file."""
    modules: dict[str, _Pieces] = {}
    for name, read in checkpoint.tensors.items():
        if _DIFFERENCE.match(name):
            continue
        piece = _PIECE.match(name)
        if piece is None:
            raise BadFile(
                f"{checkpoint.path} has '{name}', which is not part of a plain LoRA; efface cannot import it."
            )
        pieces, side = modules.setdefault(piece["module"] + (piece["number"] or ""), _Pieces()), piece["side"]
        if piece["alpha"]:
            pieces.alpha = float(read())
        elif side in ("A", "down"):
            pieces.down = read()
        else:
            pieces.up = read()
    return modules


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
