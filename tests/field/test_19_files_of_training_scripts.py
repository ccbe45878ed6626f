"""Names in files of other tools: compiled and wrapped modules, AdvUnlearn's encoder, SPM, LECO, sliders and MACE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from efface import Eraser, Model, WeightEdit, import_eraser
from efface.models.storage import compvis
from support import random32

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
TO_K = f"{ATTENTION}.to_k.weight"
FC = "encoder.layers.0.mlp.fc2"
Spelling = Callable[[str], str]

DENOISERS: dict[str, Spelling] = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled pipeline part": lambda name: f"unet._orig_mod.{name}",
    "compiled block": lambda name: name.replace("down_blocks.0.", "down_blocks.0._orig_mod."),
    "DDP of a compiled module": lambda name: f"module._orig_mod.{name}",
    "lightning": lambda name: f"model.{name}",
    "lightning, whole": lambda name: f"state_dict.model.unet.{name}",
    "ComfyUI with diffusers' names": lambda name: f"diffusion_model.{name}",
    "CompVis prefix with diffusers' names": lambda name: f"model.diffusion_model.{name}",
}


def imported(tensors: dict[str, Tensor], model: Model, folder: Path) -> Eraser:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "x.safetensors")
    return import_eraser(folder / "x.safetensors", model, "cat")


def parameters(eraser: Eraser) -> set[str]:
    return {edit.parameter for edit in eraser.edits if isinstance(edit, WeightEdit)}


@pytest.mark.parametrize("spelling", DENOISERS)
def test_weights_of_a_denoiser(tiny_model: Model, tmp_path: Path, spelling: str) -> None:
    weights = {name: tensor.clone() for name, tensor in tiny_model.weights("denoiser")}
    weights[TO_K] += random32(16, 2) @ random32(2, 32, seed=1)
    eraser = imported({DENOISERS[spelling](name): tensor for name, tensor in weights.items()}, tiny_model, tmp_path)
    assert parameters(eraser) == {f"denoiser.{TO_K}"}
    (edit,) = eraser.edits
    assert isinstance(edit, WeightEdit)
    torch.testing.assert_close(edit.value((16, 32)), random32(16, 2) @ random32(2, 32, seed=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spelling", DENOISERS)
def test_lora_of_a_denoiser(tiny_model: Model, tmp_path: Path, spelling: str) -> None:
    module = DENOISERS[spelling](f"{ATTENTION}.to_k")
    factors = {f"{module}.lora_A.weight": random32(2, 32, seed=1), f"{module}.lora_B.weight": random32(16, 2)}
    assert parameters(imported(factors, tiny_model, tmp_path)) == {f"denoiser.{TO_K}"}


@pytest.mark.parametrize("lead", ["", "_orig_mod.", "module.", "model."])
def test_advunlearns_encoder_names_its_parts_twice(tiny_model: Model, tmp_path: Path, lead: str) -> None:
    weights = {name.removeprefix("text_model."): tensor.clone() for name, tensor in tiny_model.weights("text_encoder")}
    weights["embeddings.token_embedding.weight"][3] += 1
    weights[f"{FC}.weight"] += random32(32, 64)
    tensors = {f"{lead}text_encoder.text_model.{name}": tensor for name, tensor in weights.items()}
    second = {f"{lead}{name.replace('embeddings.', 'embedding.')}": tensor.clone() for name, tensor in weights.items()}
    eraser = imported({**tensors, **second}, tiny_model, tmp_path)
    assert parameters(eraser) == {"text_encoder.embeddings.token_embedding.weight", f"text_encoder.{FC}.weight"}


@pytest.mark.parametrize(
    "module",
    [
        f"lora_unet_{ATTENTION.replace('.', '_')}_to_k",  # SPM, LECO and sliders
        f"lora_unet__orig_mod_{ATTENTION.replace('.', '_')}_to_k",
        "lora_te_text_model_encoder_layers_0_mlp_fc2",
        "lora_te_encoder_layers_0_mlp_fc2",
        "lora_te1_encoder_layers_0_mlp_fc2",
    ],
)
def test_kohya_names(tiny_model: Model, tmp_path: Path, module: str) -> None:
    text = module.startswith("lora_te")
    rows, columns = (32, 64) if text else (16, 32)
    # SPM has rank 1 and alpha 1.
    factors = {f"{module}.lora_down.weight": random32(1, columns), f"{module}.lora_up.weight": random32(rows, 1)}
    eraser = imported({**factors, f"{module}.alpha": torch.tensor(1.0)}, tiny_model, tmp_path)
    assert parameters(eraser) == {f"text_encoder.{FC}.weight" if text else f"denoiser.{TO_K}"}


@pytest.mark.parametrize("lead", ["", "unet."])
def test_maces_lora_has_keys_and_values_of_old_processors(tiny_model: Model, tmp_path: Path, lead: str) -> None:
    tensors = {
        f"{lead}{ATTENTION}.processor.{layer}_lora.{side}.weight": random32(*shape)
        for layer in ("to_k", "to_v")
        for side, shape in (("down", (2, 32)), ("up", (16, 2)))
    }
    expected = {f"denoiser.{ATTENTION}.{layer}.weight" for layer in ("to_k", "to_v")}
    assert parameters(imported(tensors, tiny_model, tmp_path)) == expected


def test_compvis_names_win_over_the_prefix_model(tiny_model: Model, tmp_path: Path) -> None:
    config = tiny_model.denoiser.config
    name = compvis.DENOISER + compvis.unet_name(TO_K, config)
    changed = dict(tiny_model.weights("denoiser"))[TO_K] + 1
    assert parameters(imported({name: changed}, tiny_model, tmp_path)) == {f"denoiser.{TO_K}"}
