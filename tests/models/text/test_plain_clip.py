"""The text encoder in plain torch against transformers', on random weights; erasers of the one on the other."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

import efface
from efface import Model, open_model
from efface.eraser.base_check import check_base
from efface.models.storage.folder import INDEX, Folder
from efface.models.text.plain_clip import PlainClipEncoder

CPU = torch.device("cpu")
SD1: dict[str, Any] = {"hidden_act": "quick_gelu", "num_hidden_layers": 3, "num_attention_heads": 4}
SD2: dict[str, Any] = {"hidden_act": "gelu", "num_hidden_layers": 4, "num_attention_heads": 2, "layer_norm_eps": 1e-3}


def write(folder: Path, kind: Any = CLIPTextModel, **options: Any) -> Any:
    """A diffusers folder that has a random text encoder, with norms and biases that matter."""
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, max_position_embeddings=12, eos_token_id=49, **options
    )
    torch.manual_seed(0)
    encoder = kind(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    encoder.save_pretrained(folder / "text_encoder")
    (folder / INDEX).write_text(json.dumps({"text_encoder": ["transformers", "CLIPTextModel"]}))
    return encoder


@pytest.mark.parametrize("skip", [0, 1, 2])
@pytest.mark.parametrize("options", [SD1, SD2], ids=["sd1", "sd2"])
@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
def test_it_gives_the_states_of_transformers(tmp_path: Path, kind: Any, options: dict[str, Any], skip: int) -> None:
    encoder = write(tmp_path, kind, **options)
    plain = PlainClipEncoder.of(Folder(tmp_path), CPU, torch.float32)
    assert plain is not None
    ids = torch.randint(0, 49, (5, 12))
    with torch.no_grad():
        found = encoder(ids, output_hidden_states=True)
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        expected = norm(found.hidden_states[-(skip + 1)])
        torch.testing.assert_close(plain(ids, skip), expected, rtol=1e-6, atol=1e-6)
        if not skip:
            assert torch.equal(expected, found.last_hidden_state)
        assert torch.equal(plain.norm(found.hidden_states[-(skip + 1)]), expected)
        torch.testing.assert_close(plain(ids[:, :3], skip), expected[:, :3], rtol=1e-4, atol=1e-5)


def test_half_precision_is_what_was_asked_for(tmp_path: Path) -> None:
    encoder = write(tmp_path, **SD1).to(torch.bfloat16)
    plain = PlainClipEncoder.of(Folder(tmp_path), CPU, torch.bfloat16)
    assert plain is not None
    ids = torch.randint(0, 49, (2, 12))
    with torch.no_grad():
        torch.testing.assert_close(plain(ids), encoder(ids)[0])


@pytest.mark.parametrize(
    "change", [{"hidden_act": "relu"}, {"quantization_config": {}}, {"intermediate_size": 64}, {"num_hidden_layers": 4}]
)
def test_what_it_does_not_know_is_left_to_transformers(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path, **SD1)
    place = tmp_path / "text_encoder" / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    assert PlainClipEncoder.of(Folder(tmp_path), CPU, torch.float32) is None


def test_another_class_is_left_to_transformers(tmp_path: Path) -> None:
    write(tmp_path, **SD1)
    (tmp_path / INDEX).write_text(json.dumps({"text_encoder": ["transformers", "CLIPTextModelWithProjection"]}))
    assert PlainClipEncoder.of(Folder(tmp_path), CPU, torch.float32) is None


def test_the_names_of_transformers_4_are_known(tmp_path: Path) -> None:
    write(tmp_path, **SD1)
    ids = torch.randint(0, 49, (2, 12))
    before = PlainClipEncoder.of(Folder(tmp_path), CPU, torch.float32)
    place = tmp_path / "text_encoder" / "model.safetensors"
    tensors = {name.removeprefix("text_model."): tensor.clone() for name, tensor in load_file(place).items()}
    save_file({f"text_model.{name}": tensor for name, tensor in tensors.items()}, place)
    after = PlainClipEncoder.of(Folder(tmp_path), CPU, torch.float32)
    assert before is not None
    assert after is not None
    assert torch.equal(after(ids), before(ids))


@pytest.mark.parametrize("clip_skip", [None, 1])
def test_erasers_by_either_fit_the_other(tiny_sd: Path, clip_skip: int | None) -> None:
    light, loaded = open_model(tiny_sd), open_model(tiny_sd)
    encoder = loaded.text_encoder
    passes: list[int] = []
    encoder.register_forward_pre_hook(lambda *_: passes.append(1))
    made = [efface.erase(model, ["cat", "golf ball"], to="dog", clip_skip=clip_skip) for model in (light, loaded)]
    assert passes
    for eraser, model in zip(made, (loaded, light), strict=True):
        check_base(eraser, model)
    torch.testing.assert_close(made[0].base.embeddings, made[1].base.embeddings, rtol=1e-6, atol=1e-6)
    assert made[0].base.hash == made[1].base.hash


def test_a_loaded_text_encoder_is_what_embeds(tiny_model: Model) -> None:
    before = tiny_model.embed(["cat"]).tokens
    encoder: Any = tiny_model.text_encoder
    with torch.no_grad():
        encoder.final_layer_norm.bias.add_(1)
    torch.testing.assert_close(tiny_model.embed(["cat"]).tokens, before + 1)
