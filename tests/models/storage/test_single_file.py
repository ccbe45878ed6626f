"""A checkpoint in one file, written here in the original code's names, against the folder that it was made from."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import efface
from efface import BadFile, BadInput, Model, open_model
from efface.models.pretrained import class_of
from efface.models.storage import compvis
from efface.models.storage.checkpoints import HERE, clip_tokenizer
from efface.models.storage.folder import Folder
from support import same

_OPEN_CLIP = [("encoder.layers", "transformer.resblocks"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
              ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("self_attn.out_proj", "attn.out_proj"),
              ("final_layer_norm", "ln_final"), ("embeddings.token_embedding", "token_embedding")]  # fmt: skip


def renamed(name: str, table: list[tuple[str, str]]) -> str:
    for old, new in table:
        name = name.replace(old, new)
    return name


def original(model: Model) -> dict[str, Tensor]:
    """The weights of a model under the names of the original code."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state(model.denoiser).items():
        tensors[compvis.DENOISER + compvis.unet_name(name, model.denoiser.config)] = tensor
    for name, tensor in state(model.vae).items():
        tensors[compvis.VAE + compvis.vae_name(name, model.vae.config)] = compvis.vae_tensor(name, tensor)
    for name, tensor in state(model.text_encoder).items():
        tensors[compvis.TEXT + name.removeprefix("text_model.")] = tensor
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def averaged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Averaged copies of the U-Net's weights: here, twice as large."""
    return {
        "model_ema." + "".join(name.split(".")[1:]): 2 * tensor
        for name, tensor in tensors.items()
        if name.startswith("model.")
    }


@pytest.fixture(scope="module")
def checkpoint(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With averaged weights, and with a buffer that old checkpoints have."""
    tensors = original(open_model(tiny_sd))
    buffer = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(12)[None]}
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_file({**tensors, **averaged(tensors), **buffer}, path)
    return path


def state(part: Any) -> dict[str, Tensor]:
    return part.state_dict()


def test_a_checkpoint_is_the_folder_it_was_made_from(checkpoint: Path, tiny_sd: Path) -> None:
    model, folder = open_model(checkpoint, config=tiny_sd), open_model(tiny_sd)
    prompts = ["a cat", ""]
    assert torch.equal(model.embed(prompts).tokens, folder.embed(prompts).tokens)
    for part in ("text_encoder", "denoiser", "vae"):
        assert same(state(getattr(model, part)), state(getattr(folder, part)))
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    one, other = (
        of.pipeline()("a cat", num_inference_steps=1, output_type="latent", generator=generator).images
        for of, generator in zip((model, folder), generators, strict=True)
    )
    torch.testing.assert_close(one, other)


def test_names_of_early_merges_are_those_of_the_published_file(checkpoint: Path, tiny_sd: Path, tmp_path: Path) -> None:
    path, clip = tmp_path / "merge.safetensors", "cond_stage_model.transformer."
    save_file(
        {name.replace(f"{clip}text_model.", clip): tensor for name, tensor in load_file(checkpoint).items()}, path
    )
    merge, published = (open_model(file, config=tiny_sd) for file in (path, checkpoint))
    assert merge.hash == published.hash
    assert torch.equal(merge.embed(["a cat"]).tokens, published.embed(["a cat"]).tokens)
    assert same(state(merge.text_encoder), state(published.text_encoder))


def test_its_text_weights_are_streamed(checkpoint: Path, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the denoiser stays on disk")

    model, folder = open_model(checkpoint, config=tiny_sd), open_model(tiny_sd)
    monkeypatch.setattr(type(model), "denoiser", property(refuse))
    assert set(model.text_parameters()) == set(folder.text_parameters())
    assert same(dict(model.text_weights()), dict(folder.text_weights()))
    one, other = (efface.erase(of, "cat", "dog", method="rece") for of in (model, folder))
    assert one.hash == other.hash


def test_the_averaged_weights_are_read_if_asked_for(checkpoint: Path, tiny_sd: Path, tmp_path: Path) -> None:
    plain, ema = open_model(tiny_sd), open_model(f"{checkpoint}#ema", config=tiny_sd)
    doubled = {name: 2 * tensor for name, tensor in plain.denoiser.state_dict().items()}
    assert same(dict(ema.text_weights()), {name: doubled[name] for name in plain.text_parameters()})
    assert same(state(ema.denoiser), doubled)
    assert same(state(ema.text_encoder), state(plain.text_encoder))
    assert ema.hash != open_model(checkpoint, config=tiny_sd).hash
    tensors = original(plain)
    save_file(tensors, tmp_path / "without.safetensors")
    with pytest.raises(BadInput, match="no averaged"):
        open_model(f"{tmp_path / 'without.safetensors'}#ema", config=tiny_sd)


def test_a_checkpoint_is_exported_as_a_folder(checkpoint: Path, tiny_sd: Path, tmp_path: Path) -> None:
    """The folder of its configuration, such as the published one, has no weights to copy."""
    config, out = tmp_path / "config", tmp_path / "out"
    shutil.copytree(tiny_sd, config, ignore=shutil.ignore_patterns("*.safetensors"))
    eraser = efface.erase(tiny_sd, "cat", "dog")
    efface.export(eraser, "diffusers", out, model=open_model(checkpoint, config=config))
    exported, model = open_model(out), open_model(tiny_sd)
    baked = eraser.bake(model)
    for part in ("text_encoder", "denoiser", "vae"):
        found, expected = state(getattr(exported, part)), state(getattr(model, part))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    baked.undo()
    assert torch.equal(exported.embed(["a cat"]).tokens, model.embed(["a cat"]).tokens)


def test_a_ckpt_is_read_as_weights_alone(tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = original(open_model(tiny_sd))
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "tiny.ckpt")
    model = open_model(tmp_path / "tiny.ckpt", config=tiny_sd)
    assert same(state(model.denoiser), state(open_model(tiny_sd).denoiser))
    assert same(dict(model.text_weights()), dict(open_model(tiny_sd).text_weights()))
    torch.save({"state_dict": tensors, "callback": Path("anything but a tensor")}, tmp_path / "more.ckpt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "tiny.ckpt").read_bytes()[:1000])
    monkeypatch.setattr("efface.models.runtime._LARGE", 1000)
    assert open_model(tmp_path / "tiny.ckpt", config=tiny_sd).dtype == torch.bfloat16
    for name in ("more.ckpt", "cut.pt"):
        with pytest.raises(BadFile, match=name) as caught:
            open_model(tmp_path / name, config=tiny_sd)
        assert "\n" not in str(caught.value)


def test_stable_diffusion_2_has_open_clips_text_encoder(tiny_sd: Path, tmp_path: Path) -> None:
    folder = open_model(tiny_sd)
    tensors = {name: tensor for name, tensor in original(folder).items() if not name.startswith("cond_stage_model")}
    flat = {name.removeprefix("text_model."): tensor for name, tensor in state(folder.text_encoder).items()}
    for name, tensor in flat.items():
        if ".self_attn.q_proj." in name:
            rows = [flat[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            place = name.replace(".self_attn.q_proj.", ".attn.in_proj_")
            tensors[f"cond_stage_model.model.{renamed(place, _OPEN_CLIP)}"] = torch.cat(rows)
        elif "position_embedding" in name:
            tensors["cond_stage_model.model.positional_embedding"] = tensor.clone()
        elif ".k_proj." not in name and ".v_proj." not in name:
            tensors[f"cond_stage_model.model.{renamed(name, _OPEN_CLIP)}"] = tensor.clone()
    save_file(tensors, tmp_path / "two.safetensors")
    model = open_model(tmp_path / "two.safetensors", config=tiny_sd)
    assert same(state(model.text_encoder), state(folder.text_encoder))
    published = open_model(tmp_path / "two.safetensors")
    assert published.folder == HERE / "sd2"
    assert published.scheduler_config["prediction_type"] == "v_prediction"
    with pytest.raises(BadFile, match=r"of the configuration in .*sd2") as caught:
        assert published.denoiser
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "parameters"),
    [
        ("sd1", (859_520_964, 83_653_863, 123_060_480)),
        ("sd2", (865_910_724, 83_653_863, 340_387_840)),
        ("sdxl", (2_567_463_684, 83_653_863, 123_060_480, 694_659_840)),
    ],
)
def test_the_configurations_are_the_published_models(version: str, parameters: tuple[int, ...]) -> None:
    """Number of parameters, as every listing of these models has it; nothing is allocated."""
    folder, names = Folder(HERE / version), ("unet", "vae", "text_encoder", "text_encoder_2")
    with torch.device("meta"):
        parts = [folder.built(name, class_of(folder, name)) for name in names[: len(parameters)]]
    assert tuple(sum(weight.numel() for weight in part.parameters()) for part in parts) == parameters


def test_the_tokenizer_is_clips(checkpoint: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = clip_tokenizer(CLIPTokenizer)
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("Van Gogh, starry night!")["input_ids"][1:3] == [2451, 19697]
    model = open_model(checkpoint)
    assert model.tokenizer.model_max_length == 77
    assert model.tokenizer.pad_token_id == 49407
    assert model.tokenizer.eos_token_id == 49407


def test_what_is_no_stable_diffusion_checkpoint_is_named(tiny_sd: Path, tmp_path: Path) -> None:
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    save_file({"text": torch.zeros(1)}, tmp_path / "other.safetensors")
    save_file({**weights, "conditioner.embedders.0.x": torch.zeros(1)}, tmp_path / "xl.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    shutil.copy(tiny_sd / "model_index.json", tmp_path / "index.json")
    for name, message in (
        ("other.safetensors", "not a Stable Diffusion checkpoint"),
        ("xl.safetensors", "convert it"),
        ("cut.safetensors", "Cannot read"),
        ("index.json", "not named .safetensors"),
        ("gone.ckpt", "not a diffusers folder"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            open_model(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="takes no config"):
        open_model(tiny_sd, config=tiny_sd)


@pytest.mark.parametrize(
    ("prefix", "use", "missing"),
    [
        ("first_stage_model.", lambda model: model.vae, "no vae"),
        ("first_stage_model.decoder.conv_in.weight", lambda model: model.vae, r"decoder\.conv_in\.weight"),
        ("model.diffusion_model.out.2.weight", lambda model: model.denoiser, r"out\.2\.weight|conv_out"),
        ("cond_stage_model.transformer.text_model.final_layer_norm", lambda model: model.text_encoder, "layer_norm"),
    ],
    ids=["vae", "vae tensor", "unet tensor", "text encoder tensor"],
)
def test_what_a_checkpoint_lacks_is_named(
    checkpoint: Path, tiny_sd: Path, tmp_path: Path, prefix: str, use: Callable[[Model], object], missing: str
) -> None:
    tensors = {name: tensor for name, tensor in load_file(checkpoint).items() if not name.startswith(prefix)}
    save_file(tensors, tmp_path / "part.safetensors")
    model = open_model(tmp_path / "part.safetensors", config=tiny_sd)
    with pytest.raises(BadFile, match=missing) as caught:
        use(model)
    assert "\n" not in str(caught.value)


TEXT, UNET = "cond_stage_model.transformer.text_model.encoder.layers.", "model.diffusion_model."


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ("text_encoder", f"{TEXT}1."),
        ("denoiser", f"{UNET}middle_block.1."),
        ("denoiser", f"{UNET}input_blocks.3."),
        ("denoiser", f"{UNET}output_blocks.0."),
        ("vae", "first_stage_model.decoder.up.1.block.0."),
    ],
)
def test_a_checkpoint_without_a_layer_is_rejected(
    checkpoint: Path, tiny_sd: Path, tmp_path: Path, part: str, lost: str
) -> None:
    tensors = load_file(checkpoint)
    fewer = {name: tensor for name, tensor in tensors.items() if not name.startswith(lost)}
    assert len(fewer) < len(tensors)
    save_file(fewer, tmp_path / "part.safetensors")
    model = open_model(tmp_path / "part.safetensors", config=tiny_sd)
    with pytest.raises(BadFile, match=rf"has no {lost}.* more weights of the configuration in .*incomplete"):
        model.part(part)
    if part == "text_encoder":
        with pytest.raises(BadFile, match=rf"has no {lost}"):
            efface.erase(open_model(tmp_path / "part.safetensors", config=tiny_sd), "cat", "dog")


@pytest.mark.parametrize(
    ("part", "layer", "further"),
    [
        ("text_encoder", f"{TEXT}1.", f"{TEXT}2."),
        ("denoiser", f"{UNET}input_blocks.1.0.", f"{UNET}input_blocks.12.0."),
        ("denoiser", f"{UNET}middle_block.1.transformer_blocks.0.", f"{UNET}middle_block.1.transformer_blocks.1."),
        ("vae", "first_stage_model.encoder.down.0.block.0.", "first_stage_model.encoder.down.0.block.5."),
    ],
)
def test_a_checkpoint_with_more_layers_than_its_configuration_is_rejected(
    checkpoint: Path, tiny_sd: Path, tmp_path: Path, part: str, layer: str, further: str
) -> None:
    tensors = load_file(checkpoint)
    names = [name for name in tensors if name.startswith(layer)]
    more = {further + name.removeprefix(layer): tensors[name].clone() for name in names}
    assert names
    assert more.keys().isdisjoint(tensors)
    save_file({**tensors, **more}, tmp_path / "more.safetensors")
    model = open_model(tmp_path / "more.safetensors", config=tiny_sd)
    with pytest.raises(BadFile, match=rf"has fewer layers: {further}.* would be left out"):
        model.part(part)
    if part == "text_encoder":
        with pytest.raises(BadFile, match=r"more.safetensors does not fit.*would be left out"):
            efface.erase(open_model(tmp_path / "more.safetensors", config=tiny_sd), "cat", "dog")
