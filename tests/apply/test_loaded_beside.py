"""An eraser beside what else a pipeline may have loaded: fused projections, a LoRA, an IP-Adapter, a ControlNet."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadInput, Eraser, TextEdit
from efface.apply.bake import Baked
from efface.models import Model
from support import parameters, same

PROMPTS = ["a cat", "a house", ""]


@pytest.fixture
def eraser(tiny_model: Model) -> Eraser:
    return efface.erase(tiny_model, ["cat", "golf ball"], to="dog", variant="window")


@pytest.fixture
def pipeline(tiny_model: Model) -> Any:
    made = tiny_model.pipeline()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def text(tiny_model: Model) -> Tensor:
    return tiny_model.embed(PROMPTS).tokens


def edited(eraser: Eraser, text: Tensor) -> Tensor:
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    return edit(text)


@torch.no_grad()
def denoise(pipeline: Any, text: Tensor, **kwargs: Any) -> Tensor:
    latents = torch.randn(len(text), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return pipeline.unet(latents, torch.tensor(500), encoder_hidden_states=text, **kwargs).sample


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_fused_projections_read_edited_text(eraser: Eraser, pipeline: Any, text: Tensor) -> None:
    plain, expected = denoise(pipeline, text), denoise(pipeline, edited(eraser, text))
    pipeline.fuse_qkv_projections()
    with eraser.attach(pipeline):
        assert close(denoise(pipeline, text), expected)
    assert close(denoise(pipeline, text), plain)


@pytest.mark.parametrize("method", ["uce", "oce"])
def test_fused_projections_are_undone_where_weights_are_written(
    method: str, tiny_model: Model, pipeline: Any, text: Tensor
) -> None:
    """They are copies, which would go on reading the text with the weights of before."""
    eraser = efface.erase(tiny_model, "cat", to="dog", method=method)
    with eraser.attach(pipeline):
        expected = denoise(pipeline, text)
    for put in (eraser.bake, eraser.bake, eraser.attach):
        pipeline.fuse_qkv_projections()
        done = put(pipeline)
        assert close(denoise(pipeline, text), expected)
        done.undo() if isinstance(done, Baked) else done.detach()
    pipeline.unfuse_qkv_projections()
    eraser.bake(pipeline)
    assert close(denoise(pipeline, text), expected)


def test_a_guard_on_values_says_that_it_cannot_see_them_in_fused_projections(tiny_model: Model, pipeline: Any) -> None:
    eraser = efface.erase(tiny_model, "cat", method="adavd")
    pipeline.fuse_qkv_projections()
    with pytest.raises(BadInput, match="fused"):
        eraser.attach(pipeline)
    pipeline.unfuse_qkv_projections()
    eraser.attach(pipeline).detach()


@pytest.fixture
def lora(pipeline: Any, tmp_path: Path) -> Path:
    """A LoRA of every map that reads the text and of the queries, in a file of its own."""
    import peft

    unet = pipeline.unet
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet.add_adapter(
            peft.LoraConfig(r=2, target_modules=["attn2.to_k", "attn2.to_v", "attn2.to_q"], init_lora_weights=False)
        )
    pipeline.save_lora_weights(tmp_path, unet_lora_layers=peft.get_peft_model_state_dict(unet))
    pipeline.unload_lora_weights()
    return tmp_path / "pytorch_lora_weights.safetensors"


def test_a_lora_draws_what_it_draws_from_edited_text(eraser: Eraser, pipeline: Any, text: Tensor, lora: Path) -> None:
    plain = denoise(pipeline, text)
    pipeline.load_lora_weights(lora)
    with_lora, expected = denoise(pipeline, text), denoise(pipeline, edited(eraser, text))
    assert not close(with_lora, plain)
    with eraser.attach(pipeline):
        assert close(denoise(pipeline, text), expected)
    assert torch.equal(denoise(pipeline, text), with_lora)
    pipeline.unload_lora_weights()
    attachment = eraser.attach(pipeline)
    pipeline.load_lora_weights(lora)  # the other way round
    assert close(denoise(pipeline, text), expected)
    attachment.detach()
    assert torch.equal(denoise(pipeline, text), with_lora)


def test_weight_edits_go_under_a_lora_and_come_back(tiny_model: Model, pipeline: Any, text: Tensor, lora: Path) -> None:
    eraser = efface.erase(tiny_model, "cat", to="dog", method="oce")
    before, plain = parameters(pipeline.unet), denoise(pipeline, text)
    with eraser.attach(pipeline):
        expected = denoise(pipeline, text)
        pipeline.load_lora_weights(lora)
        with_lora = denoise(pipeline, text)
        assert not close(with_lora, expected)
    with eraser.attach(pipeline):
        assert torch.equal(denoise(pipeline, text), with_lora)
    pipeline.unload_lora_weights()
    assert same(parameters(pipeline.unet), before)
    assert torch.equal(denoise(pipeline, text), plain)


def test_a_lora_hides_no_weight_and_is_not_baked_into(eraser: Eraser, pipeline: Any, text: Tensor, lora: Path) -> None:
    def weights() -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in efface.open_model(pipeline).text_weights()}

    names = weights()
    pipeline.load_lora_weights(lora)
    assert same(weights(), names)
    before = parameters(pipeline.unet)
    with pytest.raises(BadInput, match="unload_lora_weights"):
        eraser.bake(pipeline)
    assert same(parameters(pipeline.unet), before)
    pipeline.unload_lora_weights()
    expected = denoise(pipeline, edited(eraser, text))
    eraser.bake(pipeline)
    assert close(denoise(pipeline, text), expected)


def load_ip_adapter(unet: Any, width: int = 8) -> None:
    """Random weights in the published layout: image tokens with keys and values of their own."""
    text_width = unet.config.cross_attention_dim
    readers = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    keys: dict[str, Tensor] = {}
    for number, name in enumerate(readers):
        shape = unet.get_submodule(name).to_k.weight.shape
        for letter in "kv":
            keys[f"{2 * number + 1}.to_{letter}_ip.weight"] = torch.randn(shape)
    projection = {
        "proj.weight": torch.randn(4 * text_width, width),
        "proj.bias": torch.randn(4 * text_width),
        "norm.weight": torch.ones(text_width),
        "norm.bias": torch.zeros(text_width),
    }
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": keys}])


def test_an_ip_adapters_image_is_left_alone_with_a_warning(
    eraser: Eraser, tiny_model: Model, pipeline: Any, text: Tensor
) -> None:
    names = tiny_model.text_parameters()
    load_ip_adapter(pipeline.unet)
    image: dict[str, Any] = {"added_cond_kwargs": {"image_embeds": [torch.randn(len(text), 1, 8)]}}
    plain, expected = denoise(pipeline, text, **image), denoise(pipeline, edited(eraser, text), **image)
    other = denoise(pipeline, text, added_cond_kwargs={"image_embeds": [torch.randn(len(text), 1, 8)]})
    assert not close(plain, other)
    with pytest.warns(UserWarning, match="IP-Adapter") as caught:
        attachment = eraser.attach(pipeline)
    assert caught[0].filename == __file__
    assert close(denoise(pipeline, text, **image), expected)
    attachment.detach()
    assert torch.equal(denoise(pipeline, text, **image), plain)
    with pytest.warns(UserWarning, match="IP-Adapter") as caught:
        efface.attach_each([eraser, None, None], tiny_model).detach()
    assert caught[0].filename == __file__
    assert efface.open_model(pipeline).text_parameters() == names


def test_a_controlnet_reads_the_text_as_it_is_with_a_warning(eraser: Eraser, pipeline: Any, text: Tensor) -> None:
    import diffusers

    parts_of: Any = diffusers
    controlled = parts_of.StableDiffusionControlNetPipeline(
        **{
            **pipeline.components,
            "controlnet": parts_of.ControlNetModel.from_unet(
                pipeline.unet, conditioning_embedding_out_channels=(8, 16)
            ),
        },
        requires_safety_checker=False,
    )
    controlled.set_progress_bar_config(disable=True)
    seen: dict[str, Tensor] = {}
    for part in ("unet", "controlnet"):
        # After the eraser's hook, which is in front of the whole denoiser.
        first = getattr(controlled, part).down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
        first.register_forward_pre_hook(lambda _, args, part=part: seen.update({part: args[0].clone()}))
    with pytest.warns(UserWarning, match="ControlNet"), eraser.attach(controlled):
        controlled(
            "a cat", image=torch.zeros(1, 3, 16, 16), num_inference_steps=1, guidance_scale=1.0, output_type="latent"
        )
    assert torch.allclose(seen["controlnet"], text[:1], atol=1e-5)
    assert torch.allclose(seen["unet"], edited(eraser, text[:1]), atol=1e-4)


def test_an_ordinary_pipeline_is_warned_of_nothing(eraser: Eraser, pipeline: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        efface.attach_each([eraser, None], pipeline).detach()
