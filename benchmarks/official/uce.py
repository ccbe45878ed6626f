"""UCE in float64, written out matrix by matrix, and its differences from efface's edit and from an official script's.

    W' = (lamb W + a sum_i v_i c_i^T + b sum_j u_j p_j^T) (lamb I + a sum_i c_i c_i^T + b sum_j p_j p_j^T)^-1

with c_i the tokens of the concepts, p_j those of the preserved prompts, v_i = W g_i for the guides' tokens g_i and
u_j = W p_j. The scripts compute v_i and u_j by calling the layer, so that its bias b is in them, and the layer adds it
to W' c_i once more: the bias counts twice. efface's solution has it once. All tokens are from the `encode_prompt` of
diffusers' pipelines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import efface
from efface import open_model
from official.folders import FLUX, SDXL
from tiny_families import diffusers

CONCEPTS, GUIDES, PRESERVED = ("cat", "golf ball"), ("dog", "art"), ("house", "red car")
LAMB, LENGTH = 0.5, 512  # the ridge of the scripts and of efface; the tokens of T5 for FLUX.1 dev
#: The scripts by the folder of the tiny model.
SCRIPTS = {SDXL: "trainscripts/uce_sd_erase.py", FLUX: "trainscripts/uce_flux_edit.py"}


@dataclass(frozen=True)
class Row:
    """The largest differences over matrices with one input, relative to the largest change of a weight.

    Attributes:
        name: The matrices.
        file: The script's file.
        matrices: Their number.
        efface: efface's baked weights against the solution with the bias once.
        script: The script's weights against the solution with the bias twice.
        bias: The solution with the bias twice against that with the bias once.
    """

    name: str
    file: str
    matrices: int
    efface: float
    script: float
    bias: float


def command(model: str, save: Path) -> list[str]:
    """The arguments of the script for a model; it writes `save`/uce.safetensors."""
    options = {
        "model_id": model, "edit_concepts": ";".join(CONCEPTS), "guide_concepts": ";".join(GUIDES),
        "preserve_concepts": ";".join(PRESERVED), "concept_type": "object", "device": "cpu", "save_dir": save,
        "exp_name": "uce",
    }  # fmt: skip
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


@torch.no_grad()
def compare(model: str, models: Path, saved: Mapping[str, Tensor]) -> list[Row]:
    """A row for each kind of matrices of a model.

    Args:
        model: The folder of the tiny model.
        models: The folder of the tiny models.
        saved: The weights of the script, (rows, columns), by name.
    """
    pipeline = diffusers.DiffusionPipeline.from_pretrained(models / model)
    denoiser = pipeline.unet if model == SDXL else pipeline.transformer
    layers: dict[str, Any] = {name.removesuffix(".weight"): denoiser.get_submodule(name[:-7]) for name in saved}
    ours = _baked(models / model, list(saved))
    kinds = {"SDXL": list(layers)} if model == SDXL else {f"FLUX.1, {name}": [name] for name in layers}
    rows: list[Row] = []
    for kind, names in kinds.items():
        tokens = _tokens(pipeline, pooled="linear_1" in kind)
        once = {name: solution(layers[name], tokens, with_bias=False) for name in names}
        twice = {name: solution(layers[name], tokens, with_bias=True) for name in names}
        theirs = {name: saved[f"{name}.weight"].double() for name in names}
        edited = {name: ours[f"{name}.weight"].double() for name in names}
        scale = max(float((once[name] - layers[name].weight).abs().max()) for name in names)
        differences = [
            max(float((one[name] - other[name]).abs().max()) for name in names) / scale
            for one, other in ((edited, once), (theirs, twice), (twice, once))
        ]
        rows.append(Row(kind, SCRIPTS[model].partition("/")[2], len(names), *differences))
    return rows


def _baked(folder: Path, names: list[str]) -> dict[str, Tensor]:
    """The weights of the denoiser with efface's eraser baked, (rows, columns), by name."""
    model = open_model(folder)
    eraser = efface.erase(model, CONCEPTS, GUIDES, preserve=PRESERVED, method="uce")
    baked = eraser.bake(model)
    weights = {name: model.denoiser.get_parameter(name).detach().clone() for name in names}
    baked.undo()
    return weights


def _tokens(pipeline: Any, pooled: bool) -> dict[str, Tensor]:
    """The last subject token of each prompt, or its pooled embedding, (d,), float64."""
    is_flux = hasattr(pipeline, "transformer")
    tokenizer = pipeline.tokenizer_2 if is_flux else pipeline.tokenizer
    options = {"max_sequence_length": LENGTH} if is_flux else {"do_classifier_free_guidance": False}
    found: dict[str, Tensor] = {}
    for prompt in (*CONCEPTS, *GUIDES, *PRESERVED):
        encoded = pipeline.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, **options)
        # The last token before the end token.
        last = len(tokenizer(prompt)["input_ids"]) - 2
        found[prompt] = (encoded[1][0] if pooled else encoded[0][0, last]).double()
    return found


def solution(layer: nn.Linear, tokens: Mapping[str, Tensor], *, with_bias: bool) -> Tensor:
    """UCE's W' of a layer, (rows, columns), float64.

    Args:
        layer: The layer.
        tokens: The token of each prompt, (columns,), float64.
        with_bias: Whether the targets v_i and u_j are outputs with the layer's bias.
    """
    weight = layer.weight.double()
    bias = cast("Tensor | None", layer.bias) if with_bias else None
    left = LAMB * weight
    right = LAMB * torch.eye(weight.shape[1], dtype=torch.float64)
    for prompt, goal in (*zip(CONCEPTS, GUIDES, strict=True), *zip(PRESERVED, PRESERVED, strict=True)):
        output = weight @ tokens[goal] + (0 if bias is None else bias.double())
        left = left + torch.outer(output, tokens[prompt])
        right = right + torch.outer(tokens[prompt], tokens[prompt])
    return left @ torch.linalg.inv(right)
