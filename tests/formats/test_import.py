"""Files as other tools write them become erasers that make of the base what the file holds."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import efface
from efface import BadFile, BadInput, BadRequest, Eraser, Model, WeightEdit, WrongBase, export, import_eraser
from efface.formats.weights import factored
from efface.models import open_model
from efface.models.storage import compvis
from support import random32

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
TO_K, TO_Q = f"{ATTENTION}.to_k.weight", f"{ATTENTION}.to_q.weight"
CONV, BIAS = "mid_block.resnets.0.conv1.weight", "conv_in.bias"
FC = "encoder.layers.0.mlp.fc2.weight"
Guided = Callable[..., Tensor]


@pytest.fixture
def edited(tiny_model: Model) -> dict[str, Tensor]:
    """A whole U-Net, of which a few parameters were changed."""
    state = {name: tensor.clone() for name, tensor in tiny_model.weights("denoiser")}
    for seed, name in enumerate((TO_Q, CONV, BIAS)):
        state[name] += 0.1 * random32(*state[name].shape, seed=seed)
    state[TO_K] += random32(16, 2) @ random32(2, 32, seed=1)
    return state


def check(eraser: Eraser, model: Model, edited: Mapping[str, Tensor], part: str = "denoiser") -> None:
    """That the eraser makes of the model's weights the edited ones, and of the others nothing."""
    with eraser.attach(model):
        now = {name: tensor.clone() for name, tensor in model.weights(part)}
    for name, base in model.weights(part):
        expected = edited.get(name, base)
        if torch.equal(expected, base):
            assert torch.equal(now[name], base)
        else:
            torch.testing.assert_close(now[name], expected, rtol=1e-5, atol=1e-5)


def of_compvis(model: Model, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    config = model.denoiser.config
    return {compvis.DENOISER + compvis.unet_name(name, config): tensor for name, tensor in state.items()}


def test_a_whole_unet_is_kept_as_what_it_changes(tiny_model: Model, edited: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    save_file(edited, path)
    eraser = import_eraser(path, tiny_model, ["cat", "boat"], kind="style")
    check(eraser, tiny_model, edited)
    assert {edit.parameter for edit in eraser.edits if isinstance(edit, WeightEdit)} == {
        f"denoiser.{name}" for name in (TO_Q, TO_K, CONV, BIAS)
    }
    ranks = {edit.parameter: edit.up is not None for edit in eraser.edits if isinstance(edit, WeightEdit)}
    assert ranks == {
        f"denoiser.{TO_Q}": False, f"denoiser.{TO_K}": True, f"denoiser.{CONV}": False, f"denoiser.{BIAS}": False,
    }  # fmt: skip
    (low,) = [edit for edit in eraser.edits if isinstance(edit, WeightEdit) and edit.up is not None]
    assert low.rank == 2
    assert eraser.concepts == ("cat", "boat")
    assert (eraser.method, eraser.kind_of_edit) == ("imported", "weight")
    assert eraser.request.concepts[0].kind == "style"
    settings = eraser.provenance["settings"]
    assert settings["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert settings["file"] == "unet.safetensors"
    with pytest.raises(BadRequest, match="imported cannot be split"):
        eraser.without("cat")
    eraser.save(tmp_path / "eraser.safetensors")
    again = Eraser.load(tmp_path / "eraser.safetensors")
    assert again.hash == eraser.hash
    check(again, tiny_model, edited)


def write_torch(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def files(model: Model, edited: dict[str, Tensor], folder: Path) -> dict[str, Path]:
    """The edited U-Net in every layout."""
    encoder: Any = model.text_encoder
    original = of_compvis(model, edited)
    whole = {
        **original,
        **{f"cond_stage_model.transformer.text_model.{name}": tensor for name, tensor in encoder.state_dict().items()},
        "first_stage_model.quant_conv.bias": torch.zeros(8),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(12)[None],
        "betas": torch.zeros(10),
        "sqrt_alphas_cumprod": torch.zeros(10),
    }
    nested: dict[str, dict[str, Tensor]] = {}  # ESD: {module name: module.state_dict()}
    for name in (TO_Q, TO_K, CONV, BIAS):
        module, _, leaf = name.rpartition(".")
        nested.setdefault(module, {})[leaf] = edited[name]
    few = {name: edited[name] for name in (TO_Q, TO_K, CONV, BIAS)}
    inner = {name.removeprefix("model."): tensor for name, tensor in original.items()}
    bare = {name.removeprefix(compvis.DENOISER): tensor for name, tensor in original.items()}
    contents: dict[str, object] = {
        "diffusers.pt": edited,
        "prefix.pth": {f"unet.{name}": tensor for name, tensor in edited.items()},
        "esd.pt": nested,
        "ablation.bin": {"unet": few, "modifier_token": {"<new>": torch.zeros(3)}},
        "compvis.ckpt": {"state_dict": whole, "global_step": 3, "epoch": 1},
        "delta.ckpt": {"state_dict": of_compvis(model, few)},
        "inner.pt": inner,
        "bare.pt": bare,
        "parallel.pt": {"module": edited, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    }
    return {name: write_torch(content, folder / name) for name, content in contents.items()}


def test_every_layout_is_the_same_eraser(tiny_model: Model, edited: dict[str, Tensor], tmp_path: Path) -> None:
    made = {name: import_eraser(path, tiny_model, "cat") for name, path in files(tiny_model, edited, tmp_path).items()}
    check(made["diffusers.pt"], tiny_model, edited)
    expected = {edit.parameter: edit for edit in made["diffusers.pt"].edits if isinstance(edit, WeightEdit)}
    for name, eraser in made.items():
        found = {edit.parameter: edit for edit in eraser.edits if isinstance(edit, WeightEdit)}
        assert found.keys() == expected.keys(), name
        for parameter, edit in found.items():
            assert all(
                torch.equal(edit.tensors()[key], tensor) for key, tensor in expected[parameter].tensors().items()
            )


def test_a_checkpoint_of_an_old_torch_is_read_too(tiny_model: Model, edited: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(edited, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    check(import_eraser(tmp_path / "old.pt", tiny_model, "cat"), tiny_model, edited)


def test_moving_averages_are_taken_if_asked_for(tiny_model: Model, edited: dict[str, Tensor], tmp_path: Path) -> None:
    plain = of_compvis(tiny_model, dict(tiny_model.weights("denoiser")))
    plain[f"{compvis.DENOISER}out.2.bias"] = plain[f"{compvis.DENOISER}out.2.bias"] + 1
    config = tiny_model.denoiser.config
    averages = {compvis.ema_name(compvis.unet_name(name, config)): tensor for name, tensor in edited.items()}
    path = write_torch({"state_dict": {**plain, **averages, "model_ema.decay": torch.tensor(0.9)}}, tmp_path / "x.ckpt")
    check(import_eraser(path, tiny_model, "cat", ema=True), tiny_model, edited)
    (edit,) = import_eraser(path, tiny_model, "cat").edits
    assert isinstance(edit, WeightEdit)
    assert edit.parameter == "denoiser.conv_out.bias"
    path = write_torch(plain, tmp_path / "y.ckpt")
    with pytest.raises(BadInput, match="no EMA"):
        import_eraser(path, tiny_model, "cat", ema=True)


EARLY = "cond_stage_model.transformer."  # in early merges of 1.x


@pytest.mark.parametrize("lead", ["text_encoder.", "text_encoder.text_model.", "text_model.", "", compvis.TEXT, EARLY])
def test_names_of_text_encoders_old_and_new(tiny_model: Model, tmp_path: Path, lead: str) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_model.weights("text_encoder")}
    state[FC] += random32(32, 64)
    save_file({lead + name: tensor for name, tensor in state.items()}, tmp_path / "x.safetensors")
    eraser = import_eraser(tmp_path / "x.safetensors", tiny_model, "cat")
    check(eraser, tiny_model, state, "text_encoder")
    assert [edit.parameter for edit in eraser.edits if isinstance(edit, WeightEdit)] == [f"text_encoder.{FC}"]


def test_half_precision_files_drop_what_only_rounding_changed(
    tiny_model: Model, edited: dict[str, Tensor], tmp_path: Path
) -> None:
    half = {name: tensor.half() for name, tensor in edited.items()}
    save_file(half, tmp_path / "x.safetensors")
    eraser = import_eraser(tmp_path / "x.safetensors", tiny_model, "cat")
    assert len(eraser.edits) == 4
    with eraser.attach(tiny_model):
        for name, tensor in tiny_model.weights("denoiser", {TO_Q, TO_K, CONV, BIAS}):
            torch.testing.assert_close(tensor.half(), half[name], rtol=2e-3, atol=1e-3)


def test_exports_come_back_as_they_were(tiny_model: Model, tmp_path: Path, guided: Guided) -> None:
    eraser = efface.erase(tiny_model, ["cat", "golf ball"], "dog")
    with eraser.attach(tiny_model):
        expected = guided(tiny_model, ("a cat", "golf ball"))
    for format in ("uce", "lora", "kohya", "single-file"):
        path = tmp_path / f"{format}.safetensors"
        export(eraser, format, path, model=tiny_model)
        back = import_eraser(path, tiny_model, ["cat", "golf ball"], to="dog")
        assert len(back.edits) == len(tiny_model.text_parameters())
        assert all(isinstance(edit, WeightEdit) and edit.up is not None and edit.rank == 2 for edit in back.edits)
        with back.attach(tiny_model):
            torch.testing.assert_close(guided(tiny_model, ("a cat", "golf ball")), expected, rtol=1e-4, atol=1e-5)


def lora(pairs: str, lead: str = "unet.", alpha: str | None = None) -> dict[str, Tensor]:
    down, up = pairs.split()
    module = lead + TO_K.removesuffix(".weight")
    tensors = {module + down: random32(2, 32, seed=1), module + up: random32(16, 2)}
    return {**tensors, **({module + alpha: torch.tensor(4.0)} if alpha else {})}


@pytest.mark.parametrize(
    ("tensors", "scale"),
    [
        (lora(".lora_A.weight .lora_B.weight"), 1.0),
        (lora(".lora_A.default.weight .lora_B.default.weight", "base_model.model."), 1.0),
        (lora(".lora.down.weight .lora.up.weight"), 1.0),
        (lora(".lora_down.weight .lora_up.weight", alpha=".alpha"), 2.0),
        (lora(".lora_A.weight .lora_B.weight", "", ".alpha"), 2.0),
    ],
)
def test_a_lora_stays_factors_with_alpha_folded_in(
    tiny_model: Model, tmp_path: Path, tensors: dict[str, Tensor], scale: float
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    eraser = import_eraser(tmp_path / "x.safetensors", tiny_model, "cat")
    (edit,) = eraser.edits
    assert isinstance(edit, WeightEdit)
    assert (edit.parameter, edit.rank) == (f"denoiser.{TO_K}", 2)
    torch.testing.assert_close(edit.value((16, 32)), scale * random32(16, 2) @ random32(2, 32, seed=1))
    assert eraser.provenance["settings"]["format"] == "lora"


def test_old_attention_processors_and_text_encoders(tiny_model: Model, tmp_path: Path) -> None:
    processor = f"unet.{ATTENTION}.processor"
    tensors = {
        f"{processor}.to_out_lora.down.weight": random32(2, 16),
        f"{processor}.to_out_lora.up.weight": random32(16, 2),
        "text_encoder.text_model.encoder.layers.0.mlp.fc2.lora_linear_layer.down.weight": random32(2, 64),
        "text_encoder.text_model.encoder.layers.0.mlp.fc2.lora_linear_layer.up.weight": random32(32, 2),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    edits = import_eraser(tmp_path / "x.safetensors", tiny_model, "cat").edits
    assert {edit.parameter for edit in edits if isinstance(edit, WeightEdit)} == {
        f"denoiser.{ATTENTION}.to_out.0.weight", f"text_encoder.{FC}",
    }  # fmt: skip


def test_alpha_from_the_settings_of_diffusers_and_peft(tiny_model: Model, tmp_path: Path) -> None:
    plain = random32(16, 2) @ random32(2, 32, seed=1)
    tensors, path = lora(".lora_A.weight .lora_B.weight"), tmp_path / "x.safetensors"
    settings = {"unet.r": 2, "unet.lora_alpha": 6, "unet.use_rslora": False}
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(settings)})
    (edit,) = import_eraser(path, tiny_model, "cat").edits
    assert isinstance(edit, WeightEdit)
    torch.testing.assert_close(edit.value((16, 32)), 3 * plain)
    path = tmp_path / "adapter_model.safetensors"
    save_file(lora(".lora_A.weight .lora_B.weight", "base_model.model."), path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8, "use_rslora": True}))
    (edit,) = import_eraser(path, tiny_model, "cat").edits
    assert isinstance(edit, WeightEdit)
    torch.testing.assert_close(edit.value((16, 32)), 8 / 2**0.5 * plain)


@pytest.mark.parametrize("spelled", ["lora_unet_" + ATTENTION.replace(".", "_"),
                                     "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2"])  # fmt: skip
def test_kohya_files_do_what_diffusers_makes_of_them(
    tiny_model: Model, tiny_sd: Path, tmp_path: Path, guided: Guided, spelled: str
) -> None:
    tensors = {
        f"{spelled}_to_k.lora_down.weight": random32(2, 32, seed=1),
        f"{spelled}_to_k.lora_up.weight": random32(16, 2),
        f"{spelled}_to_k.alpha": torch.tensor(1.0),
        "lora_te_text_model_encoder_layers_0_mlp_fc2.lora_down.weight": random32(2, 64),
        "lora_te_text_model_encoder_layers_0_mlp_fc2.lora_up.weight": random32(32, 2),
        "lora_te_text_model_encoder_layers_0_mlp_fc2.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    eraser = import_eraser(tmp_path / "x.safetensors", tiny_model, "cat", format="kohya")
    assert eraser.provenance["settings"]["format"] == "kohya"
    pipeline: Any = StableDiffusionPipeline.from_pretrained(tiny_sd)
    with eraser.attach(tiny_model):
        found = guided(tiny_model, ("a cat", "a house"))
    if "down_blocks" in spelled:  # diffusers turns the others for models of SD's size only
        pipeline.load_lora_weights(tmp_path / "x.safetensors")
        torch.testing.assert_close(found, guided(open_model(pipeline), ("a cat", "a house")), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, guided(tiny_model, ("a cat", "a house")), atol=1e-3)


def test_what_needs_code_is_refused_in_one_line(tiny_model: Model, tmp_path: Path) -> None:
    path = write_torch(nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(BadFile, match=r"torch\.nn\.modules\.linear\.Linear.*runs no code") as caught:
        import_eraser(path, tiny_model, "cat")
    assert "\n" not in str(caught.value)


def test_damaged_and_empty_files_are_refused(tiny_model: Model, edited: dict[str, Tensor], tmp_path: Path) -> None:
    whole = write_torch(edited, tmp_path / "x.pt").read_bytes()
    save_file(edited, tmp_path / "x.safetensors")
    safe = (tmp_path / "x.safetensors").read_bytes()
    for name, content in (("x.pt", whole), ("x.safetensors", safe)):
        for length in (0, 7, 1000, len(content) // 2):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(BadFile, match=name) as caught:
                import_eraser(tmp_path / name, tiny_model, "cat")
            assert "\n" not in str(caught.value)
    with pytest.raises(BadFile, match="no file"):
        import_eraser(tmp_path / "gone.pt", tiny_model, "cat")
    with pytest.raises(BadFile, match="no tensors"):
        import_eraser(write_torch({"epoch": 3}, tmp_path / "y.pt"), tiny_model, "cat")


def refused(tensors: dict[str, Tensor], model: Model, folder: Path, **options: Any) -> str:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "x.safetensors")
    with pytest.raises(BadInput) as caught:
        import_eraser(folder / "x.safetensors", model, "cat", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_of_other_models_and_other_makes_are_refused(
    tiny_model: Model, edited: dict[str, Tensor], tmp_path: Path
) -> None:
    assert "no parameter 'up_blocks.9.x'" in refused({"up_blocks.9.x": torch.ones(1)}, tiny_model, tmp_path)
    assert "(3, 3)" in refused({TO_K: torch.ones(3, 3)}, tiny_model, tmp_path)
    assert "(32, 16)" in refused({TO_K: torch.ones(32, 16)}, tiny_model, tmp_path)
    assert "not finite" in refused({TO_K: torch.full((16, 32), float("nan"))}, tiny_model, tmp_path)
    assert "has no parameter of" in refused({"first_stage_model.x": torch.ones(1)}, tiny_model, tmp_path)
    assert "changes nothing" in refused(dict(tiny_model.weights("denoiser")), tiny_model, tmp_path)
    assert "no module" in refused(lora(".lora_A.weight .lora_B.weight", "unet.up_blocks.7."), tiny_model, tmp_path)
    assert "one factor" in refused({f"unet.{ATTENTION}.to_k.lora_A.weight": torch.ones(2, 32)}, tiny_model, tmp_path)
    for other in ("hada_w1_a", "lora_magnitude_vector", "lora_B.bias", "lokr_w1"):
        tensors = {f"unet.{ATTENTION}.to_k.{other}": torch.ones(2), **lora(".lora_A.weight .lora_B.weight")}
        assert other in refused(tensors, tiny_model, tmp_path)
    zero = {name: torch.zeros_like(tensor) for name, tensor in lora(".lora_A.weight .lora_B.weight").items()}
    assert "changes nothing" in refused(zero, tiny_model, tmp_path)
    wide = {**lora(".lora_A.weight .lora_B.weight"), f"unet.{ATTENTION}.to_k.lora_A.weight": torch.ones(2, 31)}
    assert "another model" in refused(wide, tiny_model, tmp_path)
    assert "format lora, not weights" in refused(
        lora(".lora_A.weight .lora_B.weight"), tiny_model, tmp_path, format="weights"
    )
    assert "magic" in refused(edited, tiny_model, tmp_path, format="magic")
    efface.erase(tiny_model, "cat").save(tmp_path / "eraser.safetensors")
    with pytest.raises(BadInput, match="an eraser of efface already"):
        import_eraser(tmp_path / "eraser.safetensors", tiny_model, "cat")


def test_an_imported_eraser_knows_its_base(
    tiny_model: Model, tiny_sd: Path, edited: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(edited, tmp_path / "x.safetensors")
    eraser = import_eraser(tmp_path / "x.safetensors", tiny_model, "cat")
    finetuned = open_model(tiny_sd)
    with torch.no_grad():
        finetuned.denoiser.get_parameter(TO_Q).mul_(1.01)
    with pytest.raises(WrongBase, match=r"to_q.*another weight.*--force"):
        eraser.attach(finetuned)
    eraser.attach(finetuned, force=True).detach()
    for dtype in (torch.float16, torch.bfloat16):
        half = open_model(tiny_sd, dtype=dtype)
        _ = half.denoiser
        eraser.attach(half).detach()
    with eraser.attach(tiny_model), pytest.raises(WrongBase, match="another eraser is on it"):
        eraser.attach(tiny_model)


def test_factors_are_found_if_they_are_there() -> None:
    up, down = random32(60, 5).double(), random32(5, 40, seed=1).double()
    found = factored(up @ down, 1e-9)
    assert found is not None
    assert found[0].shape == (60, 5)
    assert float((found[0] @ found[1] - up @ down).norm()) < 1e-9
    assert factored(random32(60, 40).double(), 1e-3) is None
    assert factored(1e-6 * random32(60, 40).double(), 1.0) is None  # nothing but rounding has no factors


def test_safetensors_written_by_esd_load_as_they_are(
    tiny_model: Model, tmp_path: Path, edited: dict[str, Tensor]
) -> None:
    """The few parameters that were trained, by diffusers' names, in bfloat16 as its script trains."""
    half = {name: edited[name].bfloat16() for name in (TO_Q, TO_K)}
    save_file(half, tmp_path / "esd-cat-from-cat-esdx.safetensors")
    eraser = import_eraser(tmp_path / "esd-cat-from-cat-esdx.safetensors", tiny_model, "cat")
    with eraser.attach(tiny_model):
        assert all(torch.equal(tensor.bfloat16(), half[name]) for name, tensor in tiny_model.weights("denoiser", half))
    assert load_file(tmp_path / "esd-cat-from-cat-esdx.safetensors").keys() == half.keys()
