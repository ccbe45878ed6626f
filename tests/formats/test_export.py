"""Each format is proven by the tool it is for: what that tool loads predicts what the attached eraser predicts."""

import json
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import efface
from efface import BadFile, BadInput, Eraser, Model, WeightEdit, export, open_model
from efface.formats import EXPORTERS
from support import random32

PROMPTS = ("a cat", "golf ball", "a house")
TO_Q = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"
BLOCK = "denoiser.mid_block.attentions.0.transformer_blocks.0"
PROJ, OUT = f"{BLOCK}.ff.net.0.proj.weight", f"{BLOCK}.ff.net.2.weight"
CONV = "denoiser.down_blocks.0.resnets.0.conv1.weight"
FC = "text_encoder.encoder.layers.0.mlp.fc2.weight"
Guided = Callable[..., Tensor]
SmallDisk = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def text_eraser(tiny_model: Model) -> Eraser:
    return efface.erase(tiny_model, ["cat", "golf ball"], ["dog", "horse"], variant="window")


def weights(eraser: Eraser, *edits: WeightEdit) -> Eraser:
    return replace(eraser, edits=edits)


def low_rank_edits() -> tuple[WeightEdit, ...]:
    return (
        WeightEdit(TO_Q, up=0.1 * random32(32, 2), down=random32(2, 32, seed=1)),
        WeightEdit(CONV, up=0.1 * random32(16, 3), down=random32(3, 16 * 9, seed=1)),
    )


def fresh(folder: Path) -> Any:
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def attached(eraser: Eraser, model: Model, guided: Guided) -> Tensor:
    with eraser.attach(model):
        return guided(model, PROMPTS)


def close(found: Tensor, expected: Tensor, plain: Tensor) -> bool:
    """As near as rounding lets it be: far nearer than the change is large."""
    return bool((found - expected).abs().max() < 1e-3 * (expected - plain).abs().max() + 1e-6)


@pytest.mark.parametrize("format", ["lora", "kohya"])
def test_a_text_edit_is_an_exact_lora_of_its_rank(
    text_eraser: Eraser, tiny_model: Model, tiny_sd: Path, tmp_path: Path, guided: Guided, format: str
) -> None:
    path, plain = tmp_path / "eraser.safetensors", guided(tiny_model, PROMPTS)
    done = export(text_eraser, format, path, model=tiny_model)
    assert (done.parameters, done.error) == (len(tiny_model.text_parameters()), 0.0)
    assert done.rank == text_eraser.rank
    pipeline = fresh(tiny_sd)
    pipeline.load_lora_weights(path)
    found = guided(open_model(pipeline), PROMPTS)
    assert close(found, attached(text_eraser, tiny_model, guided), plain)

    def picture(of: Any) -> Any:
        return of("a cat", num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="np").images

    with text_eraser.attach(tiny_model):
        tiny_model.pipeline().set_progress_bar_config(disable=True)
        np.testing.assert_allclose(picture(pipeline), picture(tiny_model.pipeline()), atol=1e-4)


def test_factors_are_w_l_and_r_for_every_layer(tiny_model: Model, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_model, "cat", "dog")
    (edit,) = eraser.edits
    assert isinstance(edit, efface.TextEdit)
    export(eraser, "lora", tmp_path / "x.safetensors", model=tiny_model)
    tensors = load_file(tmp_path / "x.safetensors")
    assert len(tensors) == 2 * len(tiny_model.text_parameters())
    for name, weight in tiny_model.text_weights():
        module = f"unet.{name.removesuffix('.weight')}"
        torch.testing.assert_close(tensors[f"{module}.lora_B.weight"], (weight.double() @ edit.left).float())
        torch.testing.assert_close(tensors[f"{module}.lora_A.weight"], edit.right.T.float())


@pytest.mark.parametrize("format", ["lora", "kohya"])
def test_low_rank_weight_edits_of_linear_maps_and_convolutions_are_exact(
    text_eraser: Eraser, tiny_model: Model, tiny_sd: Path, tmp_path: Path, guided: Guided, format: str
) -> None:
    eraser, plain = weights(text_eraser, *low_rank_edits()), guided(tiny_model, PROMPTS)
    done = export(eraser, format, tmp_path / "x.safetensors", model=tiny_model)
    assert (done.parameters, done.rank, done.error) == (2, 3, 0.0)
    pipeline = fresh(tiny_sd)
    pipeline.load_lora_weights(tmp_path / "x.safetensors")
    assert close(guided(open_model(pipeline), PROMPTS), attached(eraser, tiny_model, guided), plain)


@pytest.mark.parametrize("format", ["lora", "kohya"])
def test_edits_of_the_text_encoder_are_under_its_name(
    text_eraser: Eraser, tiny_model: Model, tiny_sd: Path, tmp_path: Path, format: str
) -> None:
    eraser = weights(text_eraser, WeightEdit(FC, up=0.1 * random32(32, 2), down=random32(2, 64, seed=1)))
    export(eraser, format, tmp_path / "x.safetensors", model=tiny_model)
    pipeline = fresh(tiny_sd)
    pipeline.load_lora_weights(tmp_path / "x.safetensors")
    with eraser.attach(tiny_model):
        expected = tiny_model.embed(PROMPTS).tokens
    plain = tiny_model.embed(PROMPTS).tokens
    assert close(open_model(pipeline).embed(PROMPTS).tokens, expected, plain)


def test_text_and_weights_together_are_one_lora(
    text_eraser: Eraser, tiny_model: Model, tiny_sd: Path, tmp_path: Path, guided: Guided
) -> None:
    name = tiny_model.text_parameters()[0]
    edit = WeightEdit(f"denoiser.{name}", up=random32(16, 1), down=random32(1, 32, seed=1))
    second = efface.erase(tiny_model, "boat", "dog", lamb=0.1).edits
    eraser, plain = replace(text_eraser, edits=(*text_eraser.edits, edit, *second)), guided(tiny_model, PROMPTS)
    for format in ("lora", "uce"):
        path = tmp_path / f"{format}.safetensors"
        export(eraser, format, path, model=tiny_model)
        pipeline = fresh(tiny_sd)
        pipeline.load_lora_weights(path) if format == "lora" else pipeline.unet.load_state_dict(
            load_file(path), strict=False
        )
        assert close(guided(open_model(pipeline), PROMPTS), attached(eraser, tiny_model, guided), plain)


@pytest.mark.parametrize(("name", "shape"), [(TO_Q, (32, 32)), (PROJ, (256, 32)), (OUT, (32, 128))])
def test_a_dense_change_needs_a_rank_and_says_what_it_loses(
    text_eraser: Eraser, tiny_model: Model, tmp_path: Path, name: str, shape: tuple[int, int]
) -> None:
    delta = random32(*shape)
    eraser, path = weights(text_eraser, WeightEdit(name, delta=delta)), tmp_path / "x.safetensors"
    with pytest.raises(BadInput, match="--rank"):
        export(eraser, "lora", path, model=tiny_model)
    values = torch.linalg.svdvals(delta.double())
    for rank in (1, 5, 31):
        done = export(eraser, "lora", path, model=tiny_model, rank=rank, force=True)
        expected = float(values[rank:].norm() / values.norm())
        assert done.error == pytest.approx(expected, rel=1e-9)
        tensors = load_file(path)
        module = f"unet.{name.removeprefix('denoiser.').removesuffix('.weight')}"
        made = tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
        assert float((made - delta).norm() / delta.norm()) == pytest.approx(expected, rel=1e-4)
    assert export(eraser, "lora", path, model=tiny_model, rank=32, force=True).error < 1e-7


def test_a_rank_below_the_edits_own_cuts_it_and_one_above_changes_nothing(
    text_eraser: Eraser, tiny_model: Model, tmp_path: Path
) -> None:
    exact = export(text_eraser, "lora", tmp_path / "a.safetensors", model=tiny_model, rank=64)
    cut = export(text_eraser, "lora", tmp_path / "b.safetensors", model=tiny_model, rank=2)
    assert exact.error == 0.0
    assert (cut.rank, 0 < cut.error < 1) == (2, True)


def test_what_a_lora_cannot_hold_is_refused(text_eraser: Eraser, tiny_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    bias = WeightEdit("denoiser.time_embedding.linear_1.bias", delta=torch.ones(64))
    norm = WeightEdit("denoiser.conv_norm_out.weight", delta=torch.ones(16))
    words = WeightEdit("text_encoder.embeddings.token_embedding.weight", delta=torch.ones(1))
    for edit in (bias, norm):
        with pytest.raises(BadInput, match=r"LoRA cannot represent.*kohya.*uce"):
            export(weights(text_eraser, edit), "lora", path, model=tiny_model, rank=4)
    encoder: Any = tiny_model.text_encoder
    words = replace(words, delta=torch.ones_like(encoder.embeddings.token_embedding.weight))
    with pytest.raises(BadInput, match="LoRA cannot represent"):
        export(weights(text_eraser, words), "lora", path, model=tiny_model, rank=4)
    with pytest.raises(BadInput, match="kohya's files cannot contain"):
        export(weights(text_eraser, words), "kohya", path, model=tiny_model)
    with pytest.raises(BadInput, match="only the denoiser"):
        export(weights(text_eraser, words), "uce", path, model=tiny_model)
    with pytest.raises(BadInput, match="no parameter"):
        export(
            weights(text_eraser, WeightEdit("denoiser.no.weight", delta=torch.ones(1))), "uce", path, model=tiny_model
        )
    with pytest.raises(BadInput, match="whole weights"):
        export(text_eraser, "uce", path, model=tiny_model, rank=3)
    guard = efface.erase(tiny_model, "cat", method="negative")
    for format in EXPORTERS.names():
        with pytest.raises(BadInput, match="in no weight"):
            export(guard, format, tmp_path / f"x{EXPORTERS.get(format).suffix}", model=tiny_model)
    assert not list(tmp_path.iterdir())


def test_kohya_names_are_those_that_diffusers_and_the_interfaces_read(
    text_eraser: Eraser, tiny_model: Model, tmp_path: Path
) -> None:
    edit = WeightEdit(FC, up=random32(32, 2), down=random32(2, 64))
    eraser = replace(text_eraser, edits=(*text_eraser.edits, edit))
    export(eraser, "kohya", tmp_path / "x.safetensors", model=tiny_model)
    tensors = load_file(tmp_path / "x.safetensors")
    stems = {name.split(".")[0] for name in tensors}
    modules = [name.removesuffix(".weight").replace(".", "_") for name in tiny_model.text_parameters()]
    assert stems == {*(f"lora_unet_{module}" for module in modules), "lora_te_text_model_encoder_layers_0_mlp_fc2"}
    for stem in stems:
        down, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
        assert tensors[f"{stem}.alpha"].item() == down.shape[0] == up.shape[1]
    converted, alphas = _convert_non_diffusers_lora_to_diffusers(dict(tensors))
    assert len(converted) == 2 * len(stems)
    assert len(alphas) == len(stems)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "networks.lora"


def test_a_folder_opens_as_a_pipeline_with_the_eraser_baked_in(
    text_eraser: Eraser, tiny_model: Model, tmp_path: Path, guided: Guided
) -> None:
    plain, path = guided(tiny_model, PROMPTS), tmp_path / "model"
    done = export(text_eraser, "diffusers", path, model=tiny_model)
    assert done.parameters == len(tiny_model.text_parameters())
    pipeline = DiffusionPipeline.from_pretrained(path)
    assert close(guided(open_model(pipeline), PROMPTS), attached(text_eraser, tiny_model, guided), plain)
    assert torch.equal(guided(tiny_model, PROMPTS), plain)
    assert json.loads((path / "efface.json").read_text())["eraser"] == text_eraser.hash
    assert not done.existed
    assert export(text_eraser, "diffusers", path, model=tiny_model).existed  # the same export, and nothing is written
    export(text_eraser, "diffusers", path, model=tiny_model, force=True)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mother.txt").write_text("dear")
    with pytest.raises(BadFile, match="letters"):
        export(text_eraser, "diffusers", tmp_path / "letters", model=tiny_model, force=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["letters", "model"]


def test_a_folder_that_cannot_be_written_leaves_the_one_before(
    text_eraser: Eraser, tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: SmallDisk
) -> None:
    path, link = tmp_path / "model", tmp_path / "link"
    export(text_eraser, "diffusers", path, model=tiny_model)
    before = {item: item.read_bytes() for item in path.rglob("*.safetensors")}
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            assert not target.exists()
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(BadFile, match="No space left"):
            export(text_eraser, "diffusers", path, model=tiny_model, force=True)
    with small_disk(), pytest.raises(BadFile, match=r"Cannot write .*model: "):
        export(text_eraser, "diffusers", path, model=tiny_model, force=True)
    assert {item: item.read_bytes() for item in path.rglob("*.safetensors")} == before
    link.symlink_to(path)
    export(text_eraser, "diffusers", link, model=tiny_model, force=True)
    assert link.is_symlink()
    monkeypatch.chdir(path)
    for place in (Path(), path, Path("..")):
        with pytest.raises(BadFile, match="the command runs in it"):
            export(text_eraser, "diffusers", place, model=tiny_model, force=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["link", "model"]


def test_a_single_file_opens_as_a_pipeline(
    text_eraser: Eraser, tiny_model: Model, tiny_sd: Path, tmp_path: Path, guided: Guided
) -> None:
    encoder: Any = tiny_model.text_encoder
    norm = WeightEdit("text_encoder.final_layer_norm.bias", delta=torch.zeros_like(encoder.final_layer_norm.bias))
    eraser = replace(text_eraser, edits=(*text_eraser.edits, *low_rank_edits(), norm))
    plain, path = guided(tiny_model, PROMPTS), tmp_path / "model.safetensors"
    export(eraser, "single-file", path, model=tiny_model)
    tensors = load_file(path)
    parts = ("denoiser", "vae", "text_encoder")
    assert len(tensors) == sum(len(list(tiny_model.weights(part))) for part in parts)
    assert tensors["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"].shape == (16, 32)
    assert tensors["first_stage_model.encoder.mid.attn_1.q.weight"].ndim == 4
    pipeline: Any = StableDiffusionPipeline.from_single_file(str(path), config=str(tiny_sd), local_files_only=True)
    assert close(guided(open_model(pipeline), PROMPTS), attached(eraser, tiny_model, guided), plain)
    for name, tensor in tiny_model.weights("vae"):
        assert torch.equal(pipeline.vae.state_dict()[name], tensor)
    for name, tensor in tiny_model.weights("text_encoder"):
        assert torch.equal(pipeline.text_encoder.state_dict()[name], tensor)


def test_uce_is_whole_weights_by_name(
    text_eraser: Eraser, tiny_model: Model, tiny_sd: Path, tmp_path: Path, guided: Guided
) -> None:
    path, plain = tmp_path / "x.safetensors", guided(tiny_model, PROMPTS)
    export(text_eraser, "uce", path, model=tiny_model)
    tensors = load_file(path)
    assert tensors.keys() == set(tiny_model.text_parameters())
    pipeline = fresh(tiny_sd)
    assert not pipeline.unet.load_state_dict(tensors, strict=False).unexpected_keys
    assert close(guided(open_model(pipeline), PROMPTS), attached(text_eraser, tiny_model, guided), plain)


def test_a_text_edit_is_exported_without_loading_the_denoiser(
    text_eraser: Eraser, tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(tiny_sd)

    def refuse(*_: object) -> None:
        raise AssertionError("weights are streamed")

    monkeypatch.setattr(type(model), "denoiser", property(refuse))
    for format in ("lora", "kohya", "uce"):
        export(text_eraser, format, tmp_path / f"{format}.safetensors", model=model)


def test_files_say_where_they_come_from_and_are_not_overwritten(
    text_eraser: Eraser, tiny_model: Model, tmp_path: Path
) -> None:
    for format in ("lora", "kohya", "uce", "single-file"):
        path = tmp_path / f"{format}.safetensors"
        export(text_eraser, format, path, model=tiny_model)
        with safe_open(path, "pt") as file:
            provenance = json.loads(file.metadata()["efface_provenance"])
        assert provenance["eraser"] == text_eraser.hash
        assert provenance["request"]["concepts"][0]["name"] == "cat"
        written = path.read_bytes()
        assert export(text_eraser, format, path, model=tiny_model).existed
        path.write_bytes(written[:-1] + bytes([written[-1] ^ 1]))
        with pytest.raises(BadFile, match="--force"):
            export(text_eraser, format, path, model=tiny_model)
        path.write_bytes(written)
        with pytest.raises(BadFile, match="not an eraser"):
            Eraser.load(path)


def test_another_model_is_refused_unless_forced(text_eraser: Eraser, other_sd: Path, tmp_path: Path) -> None:
    other = open_model(other_sd)
    for format in EXPORTERS.names():
        with pytest.raises(efface.WrongBase):
            export(text_eraser, format, tmp_path / f"x{EXPORTERS.get(format).suffix}", model=other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(text_eraser, "lora", tmp_path / "x.safetensors", model=other, force=True)
