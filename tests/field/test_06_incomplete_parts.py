"""Item 6: a model whose files are incomplete is rejected, and the message names what is missing."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import efface
from efface import BadFile, BadInput, Model, open_model

Damage = Callable[[Path], object]
UNET = "unet/diffusion_pytorch_model.safetensors"
SHARDS = "diffusion_pytorch_model-0000{}-of-00002.safetensors"


def edited(file: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / file
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        else:
            tensors = load_file(path)
            change(tensors)
            save_file(tensors, path, metadata={"format": "pt"})

    return damage


def without(file: str, name: str) -> Damage:
    return edited(file, lambda content: content.pop(next(key for key in content if name in key)))


def doubled(file: str, name: str) -> Damage:
    def double(tensors: dict[str, Any]) -> None:
        key = next(key for key in tensors if name in key)
        tensors[key] = torch.cat([tensors[key], tensors[key]])

    return edited(file, double)


def without_vocabulary(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()


def without_merges(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    without_vocabulary(folder)
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))


def small_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    few = dict(sorted(config["model"]["vocab"].items(), key=lambda item: item[1])[-5:])
    config["model"] |= {"vocab": {word: index for index, word in enumerate(few)}, "merges": []}
    config["added_tokens"], config["post_processor"] = [], None
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(config))


def one_layer_less(config: dict[str, Any]) -> None:
    config["num_hidden_layers"] -= 1


def again(file: str, old: str, new: str) -> Damage:
    return edited(
        file, lambda content: content.update({k.replace(old, new): v.clone() for k, v in content.items() if old in k})
    )


def one_more_layer(folder: Path) -> None:
    # Two text encoders: the plain one reads this model, and transformers' one a model that it does not support.
    again("text_encoder/model.safetensors", "layers.1.", "layers.2.")(folder)
    edited("text_encoder/config.json", lambda config: config.update({"hidden_act": "gelu_new"}))(folder)


one_more_block = again(UNET, "transformer_blocks.0.", "transformer_blocks.1.")


def one_shard_of_two(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet" / SHARDS.format(1))


def index_of_absent_files(folder: Path) -> None:
    content = {"metadata": {}, "weight_map": {"conv_in.weight": SHARDS.format(2)}}
    (folder / f"{UNET}.index.json").write_text(json.dumps(content))


def embed(model: Model) -> object:
    return model.embed(["cat"])


def denoiser(model: Model) -> object:
    return model.denoiser


def stream(model: Model) -> object:
    return list(model.text_weights())


def sample(model: Model) -> object:
    return efface.generate("a cat", model=model, steps=1)


DAMAGES: list[tuple[Damage, Callable[[Model], object], str]] = [
    (without_vocabulary, embed, "neither tokenizer.json nor vocab.json"),
    (without_merges, embed, "nor merges.txt"),
    (small_vocabulary, embed, "incomplete"),
    (without("tokenizer/tokenizer_config.json", "model_max_length"), embed, "no model_max_length"),
    (without("text_encoder/model.safetensors", "mlp.fc1.weight"), embed, "mlp.fc1.weight"),
    (without("text_encoder/model.safetensors", "final_layer_norm.bias"), embed, "final_layer_norm.bias"),
    (doubled("text_encoder/model.safetensors", "mlp.fc1.bias"), embed, "does not fit its config.json"),
    (edited("text_encoder/config.json", dict.clear), embed, "names no model"),
    (without("text_encoder/config.json", "num_attention_heads"), embed, "no num_attention_heads"),
    (without(UNET, "conv_in.weight"), denoiser, "no conv_in.weight"),
    (doubled(UNET, "conv_in.bias"), denoiser, "conv_in.bias"),
    (without(UNET, "attn2.to_k.weight"), stream, "attn2.to_k.weight"),
    (doubled(UNET, "attn2.to_k.weight"), denoiser, "attn2.to_k.weight"),
    (edited("text_encoder/config.json", one_layer_less), embed, "has fewer layers.*encoder.layers.1"),
    (one_more_layer, embed, "has fewer layers.*encoder.layers.2"),
    (one_more_block, denoiser, "has fewer layers.*transformer_blocks.1"),
    (edited(UNET, lambda tensors: [tensors.pop(key) for key in list(tensors) if "up_blocks" in key]), stream, "attn2"),
    (one_shard_of_two, stream, SHARDS.format(2)),
    (index_of_absent_files, stream, SHARDS.format(2)),
    (without("unet/config.json", "attention_head_dim"), stream, "no attention_head_dim"),
    (without("vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.weight"), sample, "decoder.conv_in.weight"),
    (lambda folder: shutil.rmtree(folder / "vae"), sample, "vae"),
    (without("scheduler/scheduler_config.json", "beta_schedule"), sample, "no beta_schedule"),
    (edited("scheduler/scheduler_config.json", dict.clear), sample, "names no model"),
]


@pytest.mark.parametrize(("damage", "use", "missing"), DAMAGES, ids=[f"{i}" for i in range(len(DAMAGES))])
def test_what_is_missing_is_named(
    tiny_sd: Path, tmp_path: Path, damage: Damage, use: Callable[[Model], object], missing: str
) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny_sd, folder)
    damage(folder)
    with pytest.raises(BadInput, match=missing) as caught:
        use(open_model(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "tokenizer"),
    [("sdxl", "tokenizer"), ("sdxl", "tokenizer_2"), ("sd3", "tokenizer"), ("flux", "tokenizer")],
)
def test_a_tokenizer_without_a_longest_prompt(
    saved: Callable[[str], Path], tmp_path: Path, family: str, tokenizer: str
) -> None:
    folder = tmp_path / family
    shutil.copytree(saved(family), folder)
    without(f"{tokenizer}/tokenizer_config.json", "model_max_length")(folder)
    with pytest.raises(BadInput, match="no model_max_length"):
        efface.erase(folder, "cat", to="dog")


def test_a_loaded_pipeline_with_a_tokenizer_of_two_words(tiny: Callable[[str], Any], tiny_sd: Path) -> None:
    from transformers import CLIPTokenizer

    pipeline = tiny("sd2")
    tokenizer, pipeline.tokenizer = pipeline.tokenizer, CLIPTokenizer()
    try:
        with pytest.raises(BadFile, match="2 tokens"):
            efface.erase(pipeline, "cat", to="dog")
    finally:
        pipeline.tokenizer = tokenizer


def test_a_loaded_pipeline_with_a_tokenizer_of_more_words_than_its_encoder(tiny: Callable[[str], Any]) -> None:
    pipeline = tiny("sd2")
    tokenizer, pipeline.tokenizer = pipeline.tokenizer, deepcopy(pipeline.tokenizer)
    pipeline.tokenizer.add_tokens(["<toy>"])
    try:
        with pytest.raises(BadFile, match="only"):
            efface.erase(pipeline, "cat", to="dog")
    finally:
        pipeline.tokenizer = tokenizer


def test_a_missing_map_of_the_text_in_other_families(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(saved("flux"), folder)
    without("transformer/diffusion_pytorch_model.safetensors", "context_embedder.weight")(folder)
    with pytest.raises(BadFile, match=r"context_embedder\.weight"):
        list(open_model(folder).text_weights())


def whole_clip(folder: Path, activation: str) -> None:
    """The text encoder's file becomes that of a whole CLIP model, whose image encoder has more layers."""
    from transformers import CLIPConfig, CLIPModel

    part = folder / "text_encoder"
    content = json.loads((part / "config.json").read_text()) | {"hidden_act": activation}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2,
              "image_size": 8, "patch_size": 4}  # fmt: skip
    whole = CLIPModel(CLIPConfig(text_config=content, vision_config=vision, projection_dim=8))
    tensors = {name.removeprefix("text_model."): one for name, one in load_file(part / "model.safetensors").items()}
    whole.text_model.load_state_dict(tensors, strict=False)
    (part / "model.safetensors").unlink()
    whole.save_pretrained(part)
    (part / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu_new"])  # read by the plain encoder and by transformers'
def test_the_file_of_a_whole_clip_model(tiny_sd: Path, tmp_path: Path, activation: str) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny_sd, folder)
    edited("text_encoder/config.json", lambda config: config.update({"hidden_act": activation}))(folder)
    expected = open_model(folder).embed(["cat"]).tokens
    whole_clip(folder, activation)
    torch.testing.assert_close(open_model(folder).embed(["cat"]).tokens, expected, rtol=0, atol=1e-6)
    edited("text_encoder/config.json", one_layer_less)(folder)
    with pytest.raises(BadFile, match=r"has fewer layers.*encoder\.layers\.1"):
        open_model(folder).embed(["cat"])


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_a_configuration_with_fewer_layers_of_each_encoder_of_sdxl(
    saved: Callable[[str], Path], tmp_path: Path, part: str
) -> None:
    folder = tmp_path / "sdxl"
    shutil.copytree(saved("sdxl"), folder)
    edited(f"{part}/config.json", one_layer_less)(folder)
    with pytest.raises(BadFile, match=r"has fewer layers.*encoder\.layers\.2"):
        open_model(folder).embed(["cat"])
