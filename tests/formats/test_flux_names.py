"""LoRA files for FLUX.1 under the names of kohya, BFL, XLabs and OneTrainer, written and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import efface
from efface import BadInput, Eraser, Model, WeightEdit, open_model
from efface.formats.empty_denoiser import without_weights
from efface.formats.kohya_flux import flux_tensors
from efface.formats.loaded_lora import check_changes
from efface.formats.low_rank import Factors, low_rank
from efface.models.denoising import Conditions
from support import random32
from tiny_families import diffusers

Models = Callable[[str], Model]
WIDTH, TEXT, INNER = 32, "transformer_blocks.0", "single_transformer_blocks.0"
QKV, ADDED = ("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")


def factors(denoiser: Any, module: str, seed: int, rank: int = 2) -> Factors:
    rows, columns = denoiser.get_parameter(f"{module}.weight").shape
    up, down = 0.3 * random32(rows, rank, seed=seed), random32(rank, columns, seed=seed + 100)
    return Factors("denoiser", module, torch.Size((rows, columns)), up, down, 0.0, 1.0)


def eraser_of(model: Model, *modules: str) -> Eraser:
    """An eraser that changes these modules by random factors of rank 2."""
    found = [factors(model.denoiser, module, seed) for seed, module in enumerate(modules)]
    edits = [WeightEdit(f"denoiser.{one.module}.weight", up=one.up, down=one.down) for one in found]
    return replace(efface.erase(model, "cat", "dog"), edits=tuple(edits))


def changes(eraser: Eraser, model: Model) -> dict[str, Tensor]:
    """What an eraser adds to each weight."""
    found: dict[str, Tensor] = {}
    for edit in eraser.edits:
        assert isinstance(edit, WeightEdit)
        found[edit.parameter] = edit.value(model.denoiser.get_parameter(edit.parameter.partition(".")[2]).shape)
    return found


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def prediction(model: Model) -> Tensor:
    x = torch.randn(1, model.latent_shape[0], 8, 8, generator=torch.Generator().manual_seed(0))
    text = model.denoiser_text(model.embed(["a cat"]))
    with torch.no_grad():
        return model.predict(x, torch.tensor([500.0]), Conditions(text))


def loaded(folder: Path, path: Path) -> Tensor:
    """The prediction of a pipeline that loads a file by diffusers' own loader."""
    pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(path)
    return prediction(open_model(pipeline))


BLOCKS = {
    "attention": [f"{TEXT}.{name}" for name in (*QKV, "attn.to_out.0", *ADDED, "attn.to_add_out")],
    "keys and values of the text": [f"{TEXT}.{name}" for name in ADDED[1:]],
    "others": [f"{TEXT}.{name}" for name in ("ff.net.0.proj", "ff.net.2", "ff_context.net.2", "norm1.linear",
                                             "norm1_context.linear")] + [f"{INNER}.proj_out", f"{INNER}.norm.linear"],
    "outside the blocks": ["context_embedder", "x_embedder", "time_text_embed.text_embedder.linear_1", "proj_out"],
}  # fmt: skip


@pytest.mark.parametrize("case", BLOCKS)
def test_a_file_of_kohya_is_loaded_by_diffusers_and_imported(
    tiny_model_of: Models, saved: Callable[[str], Path], tmp_path: Path, case: str
) -> None:
    model, path = tiny_model_of("flux"), tmp_path / "x.safetensors"
    eraser = eraser_of(model, *BLOCKS[case])
    result = efface.export(eraser, "kohya", path, model=model)
    assert (result.parameters, result.error) == (len(BLOCKS[case]), 0.0)
    check_equal(changes(efface.import_eraser(path, model, "cat", format="kohya"), model), changes(eraser, model))
    names = load_file(path)
    assert all(float(tensor) == len(names[name.replace("alpha", "lora_down.weight")])
               for name, tensor in names.items() if name.endswith(".alpha"))  # fmt: skip
    plain = prediction(model)
    with eraser.attach(model):
        expected = prediction(model)
    assert (expected - plain).abs().max() > 1e-3
    assert (loaded(saved("flux"), path) - expected).abs().max() < 1e-5


def test_an_edit_of_the_text_has_both_names(
    tiny_model_of: Models, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    """diffusers reads its own and ComfyUI one of the two, since both are of one weight."""
    model, path = tiny_model_of("flux-dev"), tmp_path / "x.safetensors"
    eraser = efface.erase(model, ["cat", "golf ball"], "dog", variant="window")
    efface.export(eraser, "kohya", path, model=model)
    stems = {name.rpartition(".lora_")[0] or name.rpartition(".")[0] for name in load_file(path)}
    assert stems == {
        "lora_unet_txt_in", "lora_unet_vector_in_in_layer",
        "transformer.context_embedder", "transformer.time_text_embed.text_embedder.linear_1",
    }  # fmt: skip
    with eraser.attach(model):
        expected = prediction(model)
    assert (loaded(saved("flux-dev"), path) - expected).abs().max() < 1e-5
    with efface.import_eraser(path, model, "cat").attach(model):
        assert (prediction(model) - expected).abs().max() < 1e-5


def test_single_blocks_are_loaded_at_the_size_of_flux() -> None:
    """diffusers splits `linear1` by the sizes of FLUX.1; the denoiser here has no memory for its weights."""
    config = {"num_layers": 1, "num_single_layers": 1}
    denoiser = without_weights(diffusers.FluxTransformer2DModel, config)
    some = [factors(denoiser, f"{INNER}.{name}", seed) for seed, name in enumerate((*QKV, "proj_mlp"))]
    for given in (some, some[:1], [replace(one, down=some[0].down) for one in some]):
        tensors = flux_tensors(denoiser, given)
        assert {name.partition(".")[0] for name in tensors} == {"lora_unet_single_blocks_0_linear1"}
        shared = given[-1].down is given[0].down and len(given) > 1
        assert len(tensors["lora_unet_single_blocks_0_linear1.lora_down.weight"]) == (2 if shared else 8)
        empty = without_weights(diffusers.FluxTransformer2DModel, config)
        check_changes(diffusers.FluxPipeline, "transformer", empty, tensors, given)
    halved = {
        name: tensor / 2 if "lora_up" in name else tensor for name, tensor in flux_tensors(denoiser, some).items()
    }
    empty = without_weights(diffusers.FluxTransformer2DModel, config)
    with pytest.raises(BadInput, match="does not load the change of single_transformer_blocks"):
        check_changes(diffusers.FluxPipeline, "transformer", empty, halved, some)


def test_joined_layers_of_every_name_are_the_same_changes(tiny_model_of: Models, tmp_path: Path) -> None:
    """One file for each tool, of the joined attention with one `down`, against the file with diffusers' names."""
    model, down = tiny_model_of("flux"), random32(2, WIDTH, seed=1)
    parts = {"img": [f"{TEXT}.{name}" for name in QKV], "txt": [f"{TEXT}.{name}" for name in ADDED],
             "single": [f"{INNER}.{name}" for name in QKV]}  # fmt: skip
    ups = {part: random32(3 * WIDTH, 2, seed=seed) for seed, part in enumerate(parts)}
    own = {f"transformer.{module}.lora_{side}.weight": tensor
           for part, modules in parts.items()
           for module, up in zip(modules, ups[part].split(WIDTH), strict=True)
           for side, tensor in (("A", down.clone()), ("B", up.clone()))}  # fmt: skip
    # A whole `linear1` ends with the rows of the feed-forward network, which XLabs' files do not have.
    whole = {**ups, "single": torch.cat([ups["single"], torch.zeros(4 * WIDTH, 2)])}
    bfl = {"img": "double_blocks.0.img_attn.qkv", "txt": "double_blocks.0.txt_attn.qkv",
           "single": "single_blocks.0.linear1"}  # fmt: skip
    xlabs = {"img": "double_blocks.0.processor.qkv_lora1", "txt": "double_blocks.0.processor.qkv_lora2",
             "single": "single_blocks.0.processor.qkv_lora"}  # fmt: skip
    files: dict[str, dict[str, Tensor]] = {"own": own, "bare": {}, "onetrainer": {}}
    for name, tensor in own.items():
        files["bare"][name.removeprefix("transformer.")] = tensor
        module, _, side = name.removeprefix("transformer.").rpartition(".lora_")
        spelled = f"lora_transformer_{module.replace('.', '_')}"
        files["onetrainer"][f"{spelled}.lora_{'down' if side[0] == 'A' else 'up'}.weight"] = tensor
        files["onetrainer"][f"{spelled}.alpha"] = torch.tensor(2.0)
    for part, up in whole.items():
        kohya = f"lora_unet_{bfl[part].replace('.', '_')}"
        more = {f"{kohya}.lora_down.weight": down.clone(), f"{kohya}.lora_up.weight": 2 * up,
                f"{kohya}.alpha": torch.tensor(1.0)}  # fmt: skip
        files.setdefault("kohya", {}).update(more)
        for lead in ("diffusion_model.", "", "base_model.model.", "model.diffusion_model.", "transformer."):
            pair = {f"{lead}{bfl[part]}.lora_A.weight": down.clone(), f"{lead}{bfl[part]}.lora_B.weight": up.clone()}
            files.setdefault(f"bfl {lead}", {}).update(pair)
        pair = {f"diffusion_model.{bfl[part]}.lora_down.weight": down.clone(),
                f"diffusion_model.{bfl[part]}.lora_up.weight": up.clone()}  # fmt: skip
        files.setdefault("comfyui", {}).update(pair)
        pair = {f"{xlabs[part]}.down.weight": down.clone(), f"{xlabs[part]}.up.weight": ups[part].clone()}
        files.setdefault("xlabs", {}).update(pair)
        files.setdefault("xlabs in comfyui", {}).update({f"diffusion_model.{key}": one for key, one in pair.items()})
    expected = {f"denoiser.{module}.weight": up @ down for part, modules in parts.items()
                for module, up in zip(modules, ups[part].split(WIDTH), strict=True)}  # fmt: skip
    for name, tensors in files.items():
        path = tmp_path / f"{name.replace('.', '-').strip()}.safetensors"
        save_file(tensors, path)
        check_equal(changes(efface.import_eraser(path, model, "cat"), model), expected)


@pytest.mark.parametrize("tool", ["kohya", "xlabs"])
def test_an_import_does_what_diffusers_makes_of_the_file(
    tiny_model_of: Models, saved: Callable[[str], Path], tmp_path: Path, tool: str
) -> None:
    model, path = tiny_model_of("flux"), tmp_path / "x.safetensors"
    sides = {"kohya": ("lora_down", "lora_up"), "xlabs": ("down", "up")}[tool]
    modules = {
        "kohya": {
            "lora_unet_double_blocks_0_img_attn_qkv": (96, 32), "lora_unet_double_blocks_0_txt_attn_proj": (32, 32),
            "lora_unet_double_blocks_0_img_mlp_0": (128, 32), "lora_unet_single_blocks_0_modulation_lin": (96, 32),
        },
        "xlabs": {
            "double_blocks.0.processor.qkv_lora1": (96, 32), "double_blocks.0.processor.proj_lora1": (32, 32),
            "double_blocks.0.processor.qkv_lora2": (96, 32), "double_blocks.0.processor.proj_lora2": (32, 32),
            "single_blocks.0.processor.qkv_lora": (96, 32), "single_blocks.0.processor.proj_lora": (32, 160),
        },
    }[tool]  # fmt: skip
    tensors: dict[str, Tensor] = {}
    for seed, (name, (rows, columns)) in enumerate(modules.items()):
        tensors[f"{name}.{sides[0]}.weight"] = random32(4, columns, seed=seed)
        tensors[f"{name}.{sides[1]}.weight"] = 0.2 * random32(rows, 4, seed=seed + 50)
        if tool == "kohya":
            tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, path)
    plain = prediction(model)
    with efface.import_eraser(path, model, "cat").attach(model):
        found = prediction(model)
    assert (found - plain).abs().max() > 1e-2
    assert (found - loaded(saved("flux"), path)).abs().max() < 1e-5


def test_scale_and_shift_of_the_last_norm_are_swapped(
    tiny_model_of: Models, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    model, path = tiny_model_of("flux"), tmp_path / "x.safetensors"
    eraser = eraser_of(model, "norm_out.linear")
    with pytest.raises(BadInput, match=r"ignores kohya's name of norm_out\.linear.*export the eraser as lora"):
        efface.export(eraser, "kohya", path, model=model)
    assert not path.exists()
    tensors = flux_tensors_of_norm(model, eraser)
    save_file(tensors, path)
    check_equal(changes(efface.import_eraser(path, model, "cat"), model), changes(eraser, model))


def flux_tensors_of_norm(model: Model, eraser: Eraser) -> dict[str, Tensor]:
    (of_norm,) = low_rank(eraser, model, None)
    half = len(of_norm.up) // 2
    name = "diffusion_model.final_layer.adaLN_modulation.1"
    up = torch.cat([of_norm.up[half:], of_norm.up[:half]])
    return {f"{name}.lora_A.weight": of_norm.down, f"{name}.lora_B.weight": up}


def refused(tensors: dict[str, Tensor], model: Model, folder: Path) -> str:
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, folder / "bad.safetensors")
    with pytest.raises(BadInput) as caught:
        efface.import_eraser(folder / "bad.safetensors", model, "cat")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_files_and_files_for_other_models_are_rejected(
    tiny_model_of: Models, tiny_model: Model, tmp_path: Path
) -> None:
    model, down, up = tiny_model_of("flux"), random32(2, WIDTH), random32(3 * WIDTH, 2)
    names = ("lora_unet_double_blocks_0_img_attn_qkv.lora_{}.weight", "double_blocks.0.processor.qkv_lora1.{}.weight",
             "diffusion_model.double_blocks.0.img_attn.qkv.lora_{}.weight")  # fmt: skip
    for name in names:
        pair = {name.format("down"): down, name.format("up"): up}
        for lost in pair:
            assert "one factor" in refused({key: one for key, one in pair.items() if key != lost}, model, tmp_path)
        assert "another model" in refused({**pair, name.format("up"): up[:-1]}, model, tmp_path)
        assert "another model" in refused({**pair, name.format("up"): up[:, :1]}, model, tmp_path)
        assert "another model" in refused({**pair, name.format("down"): down[:, :-1]}, model, tmp_path)
        other = {key.replace("blocks_0", "blocks_7").replace("blocks.0", "blocks.7"): one for key, one in pair.items()}
        assert "has no module" in refused(other, model, tmp_path)
        assert "has no module" in refused(pair, tiny_model, tmp_path)
        assert "has no module" in refused(pair, tiny_model_of("sd3"), tmp_path)
        cut = {key.replace("qkv", "qk"): one for key, one in pair.items()}
        assert "has no module" in refused(cut, model, tmp_path)
    twice = {"transformer.context_embedder.lora_A.weight": down, "transformer.context_embedder.lora_B.weight": up[:32]}
    twice |= {"lora_unet_txt_in.lora_down.weight": down, "lora_unet_txt_in.lora_up.weight": 2 * up[:32]}
    assert "two different changes of denoiser.context_embedder.weight" in refused(twice, model, tmp_path)


def test_what_no_file_of_kohya_can_hold_is_rejected(tiny_model_of: Models, tmp_path: Path) -> None:
    model, path = tiny_model_of("flux"), tmp_path / "x.safetensors"
    bias = WeightEdit("denoiser.context_embedder.bias", delta=torch.ones(WIDTH))
    dense = WeightEdit(f"denoiser.{TEXT}.attn.to_q.weight", delta=torch.eye(WIDTH))
    mixed = eraser_of(model, "context_embedder", f"{TEXT}.attn.to_q")
    encoder = WeightEdit("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.weight", up=torch.ones(16, 1),
                         down=torch.ones(1, 32))  # fmt: skip
    for edits, message in (
        ((bias,), "a LoRA cannot represent"), ((dense,), "pass --rank"),
        (mixed.edits, "ignores kohya's name of context_embedder"),
        ((encoder,), "no LoRA of the text_encoder_2 of a FluxPipeline"),
        (eraser_of(model, f"{INNER}.attn.to_q").edits, "into a FluxPipeline of this size"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=message) as caught:
            efface.export(replace(mixed, edits=edits), "kohya", path, model=model)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="no LoRA of the text_encoder_2 of a FluxPipeline"):
        efface.export(replace(mixed, edits=(encoder,)), "lora", path, model=model)


def test_changes_of_a_text_encoder_are_beside_those_of_blocks_only(
    tiny_model_of: Models, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    """With diffusers' names in a file, which changes outside the blocks have, diffusers ignores kohya's."""
    model, path = tiny_model_of("flux"), tmp_path / "x.safetensors"
    width: int = model.config("text_encoder")["hidden_size"]
    of_encoder = WeightEdit("text_encoder.encoder.layers.0.self_attn.out_proj.weight", up=random32(width, 2, seed=5),
                            down=random32(2, width, seed=6))  # fmt: skip
    text = efface.erase(model, "cat", "dog")
    both = replace(text, edits=(*text.edits, of_encoder))
    with pytest.raises(BadInput, match=r"context_embedder.*and those of text encoders.*as lora") as caught:
        efface.export(both, "kohya", path, model=model)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    in_blocks = eraser_of(model, *BLOCKS["attention"])
    for eraser, format in ((both, "lora"), (replace(in_blocks, edits=(*in_blocks.edits, of_encoder)), "kohya")):
        efface.export(eraser, format, path, model=model, force=True)
        pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(saved("flux"))
        pipeline.load_lora_weights(path)
        inputs = torch.randn(1, width, generator=torch.Generator().manual_seed(0))
        name = "encoder.layers.0.self_attn.out_proj"
        modules = dict(pipeline.text_encoder.named_modules())
        layer = next(module for key, module in modules.items() if key.endswith(name))
        with torch.no_grad():
            added = layer(inputs) - layer.base_layer(inputs)
        assert of_encoder.up is not None
        assert of_encoder.down is not None
        assert (added - inputs @ (of_encoder.up @ of_encoder.down).T).abs().max() < 1e-4


def test_chroma_has_the_same_names(tiny_model_of: Models, saved: Callable[[str], Path], tmp_path: Path) -> None:
    model, path = tiny_model_of("chroma"), tmp_path / "x.safetensors"
    for eraser in (eraser_of(model, *BLOCKS["attention"]), efface.erase(model, "cat", "dog")):
        efface.export(eraser, "kohya", path, model=model, force=True)
        with eraser.attach(model):
            expected = prediction(model)
        assert (loaded(saved("chroma"), path) - expected).abs().max() < 1e-5
        with efface.import_eraser(path, model, "cat").attach(model):
            assert (prediction(model) - expected).abs().max() < 1e-5
