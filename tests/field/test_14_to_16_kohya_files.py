"""kohya's files as other programs read them: sgm's names of SDXL, metadata, and exact differences."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import efface
from efface import BadInput, Eraser, WeightEdit, open_model
from support import random32
from tiny_families import tiny_sd2, tiny_sdxl

TO_V = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("edited", ["text", "resnet"])
def test_modules_of_sdxl_have_the_names_of_sgm(tiny_sd: Path, tmp_path: Path, edited: str) -> None:
    pipeline, path = tiny_sdxl(tiny_sd), tmp_path / "x.safetensors"
    eraser = efface.erase(pipeline, "cat", "dog")
    if edited == "resnet":
        weight = pipeline.unet.mid_block.resnets[0].time_emb_proj.weight
        name, (rows, columns) = "denoiser.mid_block.resnets.0.time_emb_proj.weight", weight.shape
        edit = WeightEdit(name, up=random32(rows, 1), down=random32(1, columns))
        eraser = replace(eraser, edits=(edit,))
    efface.export(eraser, "kohya", path, model=pipeline)
    stems = {name.split(".")[0] for name in load_file(path)}
    if edited == "resnet":
        assert stems == {"lora_unet_middle_block_0_emb_layers_1"}
    else:
        assert {"lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"} < stems
        assert all(stem.startswith(("lora_unet_input_", "lora_unet_middle_", "lora_unet_output_")) for stem in stems)
        assert len(stems) == len(open_model(pipeline).text_parameters())


@pytest.mark.parametrize("make", [tiny_sdxl, tiny_sd2])
def test_a_pipeline_without_text_encoders_has_the_same_file(tiny_sd: Path, tmp_path: Path, make: Any) -> None:
    pipeline = make(tiny_sd)
    eraser = efface.erase(pipeline, "cat", "dog")
    efface.export(eraser, "kohya", tmp_path / "whole.safetensors", model=pipeline)
    for part in ("text_encoder", "text_encoder_2"):
        if hasattr(pipeline, part):
            pipeline.register_modules(**{part: None})
    efface.export(eraser, "kohya", tmp_path / "bare.safetensors", model=pipeline)
    whole, bare = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "bare"))
    assert whole.keys() == bare.keys()
    assert all(torch.equal(whole[name], bare[name]) for name in whole)


@pytest.mark.parametrize("format", ["kohya", "lora"])
@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("sd", {"ss_base_model_version": "sd_v1", "ss_v2": "False", "modelspec.resolution": "512x512"}),
        ("sd2", {"ss_base_model_version": "sd_v2_v", "ss_v2": "True", "modelspec.prediction_type": "v"}),
        ("sdxl", {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False", "modelspec.resolution": "1024x1024"}),
    ],
)  # fmt: skip
def test_the_metadata_names_the_base(
    tiny_sd: Path, tmp_path: Path, family: str, expected: dict[str, str], format: str
) -> None:
    model: Any = {
        "sd": lambda: open_model(tiny_sd),
        "sd2": lambda: tiny_sd2(tiny_sd),
        "sdxl": lambda: tiny_sdxl(tiny_sd),
    }
    opened = model[family]()
    efface.export(efface.erase(opened, ["cat", "boat"], "dog"), format, tmp_path / "x.safetensors", model=opened)
    metadata = metadata_of(tmp_path / "x.safetensors")
    assert expected.items() <= metadata.items()
    assert metadata["modelspec.title"] == "cat, boat erased by uce"
    assert metadata["modelspec.architecture"].endswith("/lora")
    assert {"modelspec.sai_model_spec", "modelspec.implementation", "modelspec.resolution"} <= metadata.keys()


def dense_eraser(model: Any) -> tuple[Eraser, dict[str, Tensor]]:
    """An eraser that changes a matrix, a convolution, a bias and a norm in full, and these changes."""
    names = (
        TO_V, "denoiser.conv_in.weight", "denoiser.time_embedding.linear_1.bias", "denoiser.conv_norm_out.weight",
        "text_encoder.encoder.layers.0.mlp.fc1.bias",
    )  # fmt: skip
    parameters = {
        f"{part}.{name}": parameter
        for part in ("denoiser", "text_encoder") for name, parameter in model.part(part).named_parameters()
    }  # fmt: skip
    deltas = {name: 0.1 * random32(*parameters[name].shape, seed=seed) for seed, name in enumerate(names)}
    edits = tuple(WeightEdit(name, delta=delta) for name, delta in deltas.items())
    return replace(efface.erase(model, "cat", "dog"), edits=edits), deltas


def test_changes_that_are_no_lora_are_exact_differences(tiny_sd: Path, tmp_path: Path) -> None:
    model, path = open_model(tiny_sd), tmp_path / "x.safetensors"
    eraser, deltas = dense_eraser(model)
    result = efface.export(eraser, "kohya", path, model=model)
    assert (result.rank, result.error) == (None, 0.0)
    tensors = load_file(path)
    assert set(tensors) == {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v.diff", "lora_unet_conv_in.diff",
        "lora_unet_time_embedding_linear_1.diff", "lora_unet_time_embedding_linear_1.diff_b", "lora_unet_out_0.diff",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.diff", "lora_te_text_model_encoder_layers_0_mlp_fc1.diff_b",
    }  # fmt: skip
    # A1111 reads the change of a bias only beside one of the weight.
    for name in ("lora_unet_time_embedding_linear_1", "lora_te_text_model_encoder_layers_0_mlp_fc1"):
        assert not tensors[f"{name}.diff"].any()
    torch.testing.assert_close(tensors["lora_unet_conv_in.diff"], deltas["denoiser.conv_in.weight"], rtol=0, atol=1e-6)
    imported = efface.import_eraser(path, tiny_sd, "cat")
    for edit in imported.edits:
        assert isinstance(edit, WeightEdit)
        assert edit.delta is not None
        torch.testing.assert_close(edit.delta, deltas[edit.parameter], rtol=0, atol=1e-6)
    assert len(imported.edits) == len(deltas)


def test_with_a_rank_only_what_a_lora_cannot_hold_is_a_difference(tiny_sd: Path, tmp_path: Path) -> None:
    model, path = open_model(tiny_sd), tmp_path / "x.safetensors"
    eraser, _ = dense_eraser(model)
    result = efface.export(eraser, "kohya", path, model=model, rank=4)
    assert result.rank == 4
    assert result.error > 0
    names = {name.partition(".")[2] for name in load_file(path)}
    assert names == {"lora_down.weight", "lora_up.weight", "alpha", "diff", "diff_b"}


def test_trained_change_with_biases_of_sdxl(tiny_sd: Path, tmp_path: Path) -> None:
    pipeline = tiny_sdxl(tiny_sd)
    bias = WeightEdit(
        "denoiser.add_embedding.linear_2.bias", delta=torch.ones_like(pipeline.unet.add_embedding.linear_2.bias)
    )
    eraser = replace(efface.erase(pipeline, "cat", "dog"), edits=(bias,))
    efface.export(eraser, "kohya", tmp_path / "x.safetensors", model=pipeline, rank=64)
    names = {"lora_unet_label_emb_0_2.diff", "lora_unet_label_emb_0_2.diff_b"}
    assert set(load_file(tmp_path / "x.safetensors")) == names


def test_with_a_rank_the_weight_beside_a_changed_bias_is_a_difference(tiny_sd: Path, tmp_path: Path) -> None:
    model, path = open_model(tiny_sd), tmp_path / "x.safetensors"
    module = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    size = len(model.denoiser.get_parameter(f"{module.removeprefix('denoiser.')}.bias"))
    edits = (
        WeightEdit(f"{module}.weight", delta=random32(size, size)),
        WeightEdit(f"{module}.bias", delta=random32(size)),
    )
    efface.export(replace(efface.erase(model, "cat", "dog"), edits=edits), "kohya", path, model=model, rank=4)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    tensors = load_file(path)
    assert set(tensors) == {f"{name}.diff", f"{name}.diff_b"}
    torch.testing.assert_close(tensors[f"{name}.diff"], edits[0].delta, rtol=0, atol=1e-6)


def of_encoder(model: Any, part: str, name: str) -> Eraser:
    """An eraser that changes one weight or bias of a text encoder, by the end of its name."""
    (full,) = [full for full, _ in model.part(part).named_parameters() if full.endswith(name)]
    shape = model.part(part).get_parameter(full).shape
    if len(shape) == 1:
        edit = WeightEdit(f"{part}.{full}", delta=random32(*shape))
    else:
        edit = WeightEdit(f"{part}.{full}", up=random32(shape[0], 1), down=random32(1, shape[1]))
    return replace(efface.erase(model, "cat", "dog"), edits=(edit,))


@pytest.mark.parametrize(
    ("family", "part", "prefix", "maps"),
    [
        ("sd1", "text_encoder", "lora_te", "v"),
        ("sd2", "text_encoder", "lora_te", "qkvo"),
        ("sdxl", "text_encoder", "lora_te1", "v"),
        ("sdxl", "text_encoder_2", "lora_te2", "qkvo"),
    ],
)
def test_attentions_of_open_clip_are_whole(
    tiny_model_of: Any, tmp_path: Path, family: str, part: str, prefix: str, maps: str
) -> None:
    model, path = tiny_model_of(family), tmp_path / "x.safetensors"
    eraser = of_encoder(model, part, "layers.1.self_attn.v_proj.weight")
    efface.export(eraser, "kohya", path, model=model)
    tensors, attention = load_file(path), f"{prefix}_text_model_encoder_layers_1_self_attn"
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
    assert {name.split(".")[0] for name in tensors} == {f"{attention}_{names[letter]}" for letter in maps}
    assert all(tensor.any() == ("_v_proj" in name) for name, tensor in tensors.items() if "alpha" not in name)
    (imported,) = efface.import_eraser(path, model, "cat").edits
    assert isinstance(imported, WeightEdit)
    assert imported.parameter == cast("WeightEdit", eraser.edits[0]).parameter


@pytest.mark.parametrize(
    ("family", "part", "name"),
    [
        ("sd1", "text_encoder", "layers.1.layer_norm1.weight"),
        ("sd1", "text_encoder", "final_layer_norm.bias"),
        ("sd2", "text_encoder", "layers.1.self_attn.q_proj.bias"),
        ("sdxl", "text_encoder_2", "layers.1.self_attn.v_proj.bias"),
        ("sdxl", "text_encoder_2", "text_projection.weight"),
    ],
)
def test_changes_that_a_program_ignores_are_rejected(
    tiny_model_of: Any, tmp_path: Path, family: str, part: str, name: str
) -> None:
    model = tiny_model_of(family)
    with pytest.raises(BadInput, match=r"cannot contain.*diffusers"):
        efface.export(of_encoder(model, part, name), "kohya", tmp_path / "x.safetensors", model=model)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(("family", "version"), [("sd1", "sd_v1_v"), ("sd2", "sd_v2")])
def test_the_version_does_not_follow_from_the_prediction(
    tiny_sd: Path, tmp_path: Path, family: str, version: str
) -> None:
    pipeline: Any = open_model(tiny_sd).pipeline() if family == "sd1" else tiny_sd2(tiny_sd)
    prediction = "v_prediction" if version.endswith("_v") else "epsilon"
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, prediction_type=prediction)
    efface.export(efface.erase(pipeline, "cat", "dog"), "kohya", tmp_path / "x.safetensors", model=pipeline)
    metadata = metadata_of(tmp_path / "x.safetensors")
    assert metadata["ss_base_model_version"] == version
    assert metadata["ss_v2"] == str(family == "sd2")


def test_a_rejection_names_uce_among_the_alternatives(tiny_sd: Path, tmp_path: Path) -> None:
    model = open_model(tiny_sd)
    eraser, _ = dense_eraser(model)
    for rank in (None, 64):
        with pytest.raises(BadInput, match="kohya"):
            efface.export(eraser, "lora", tmp_path / "x.safetensors", model=model, rank=rank)
    table: Any = model.text_encoder
    words = WeightEdit(
        "text_encoder.embeddings.token_embedding.weight", delta=torch.ones_like(table.get_input_embeddings().weight)
    )
    with pytest.raises(BadInput, match="uce"):
        efface.export(replace(eraser, edits=(words,)), "kohya", tmp_path / "x.safetensors", model=model)
