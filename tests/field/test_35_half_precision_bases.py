"""Whether an eraser fits a model in half precision: the same encoder fits in each dtype, and a similar one in none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import efface
from efface import Model, WrongBase, open_model
from efface.models.text.embedded import embedding_margin
from tiny_families import clip_parts, diffusers, tiny_vae, transformers

#: Width, layers, heads and activation of the text encoders of SD 1 and SD 2. SDXL's second one, (1280, 32, 20, "gelu"),
#: passes too, in a minute.
SIZES = {"L": (768, 12, 12, "quick_gelu"), "H": (1024, 23, 16, "gelu")}
BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32


def pipeline_of(tiny_sd: Path, size: str) -> Any:
    width, layers, heads, activation = SIZES[size]
    _, tokenizer = clip_parts(tiny_sd, 8)
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=tokenizer.model_max_length, hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, cross_attention_dim=width, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), norm_num_groups=4,
    )  # fmt: skip
    return diffusers.StableDiffusionPipeline(
        vae=tiny_vae(quant=True), text_encoder=transformers.CLIPTextModel(config).eval(), tokenizer=tokenizer,
        unet=unet, scheduler=diffusers.DDIMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def nudge(module: Any, share: float) -> None:
    """Change each matrix by random numbers of this share of its size."""
    generator = torch.Generator().manual_seed(1)
    for weight in module.parameters():
        if weight.ndim == 2:
            change = torch.randn(weight.shape, generator=generator).to(weight.dtype)
            weight.data += share * weight.data.std() * change


@pytest.mark.parametrize("size", ["L", pytest.param("H", marks=pytest.mark.slow)])
def test_a_clip_fits_in_half_precision_and_a_similar_one_does_not(tiny_sd: Path, size: str) -> None:
    pipeline = pipeline_of(tiny_sd, size)
    plain = efface.erase(pipeline, ["cat", "golf ball"], to="dog")
    for dtype in (FLOAT16, BFLOAT16):
        if dtype == BFLOAT16 or size == "L":
            pipeline.to(dtype)
            plain.attach(pipeline).detach()
    of_bfloat16 = efface.erase(pipeline, ["cat", "a red house"], to="dog")
    of_bfloat16.attach(pipeline).detach()
    pipeline.to(FLOAT32)
    of_bfloat16.attach(pipeline).detach()
    nudge(pipeline.text_encoder, 0.05)
    for dtype in (FLOAT32, BFLOAT16):
        pipeline.to(dtype)
        for eraser in (plain, of_bfloat16):
            with pytest.raises(WrongBase, match="relative error"):
                eraser.attach(pipeline)


def test_another_encoder_of_the_same_size_is_rejected(tiny_sd: Path, other_sd: Path) -> None:
    eraser = efface.erase(open_model(tiny_sd), "cat", to="dog")
    for dtype in (FLOAT16, BFLOAT16):
        with pytest.raises(WrongBase):
            eraser.attach(open_model(other_sd).pipeline().to(dtype))


def test_erasers_of_two_dtypes_of_one_model_can_be_composed(tiny_sd: Path) -> None:
    pipeline: Any = open_model(tiny_sd).pipeline()
    nudge(pipeline.text_encoder, 5.0)  # so that rounding adds up as in a larger encoder
    plain = efface.erase(pipeline, ["horse", "house"], to="dog")
    half = efface.erase(pipeline.to(BFLOAT16), ["horse", "cat"], to="dog")
    one, other = plain.base.rows("text")["horse"], half.base.rows("text")["horse"]
    assert float((one - other).norm() / one.norm()) > 1e-2
    assert efface.compose(plain, half).concepts


@pytest.mark.parametrize("method", ["negative", "sld", "uce"])
def test_guards_of_float32_work_on_a_pipeline_in_bfloat16(tiny_sd: Path, method: str) -> None:
    pipeline: Any = open_model(tiny_sd).pipeline()
    nudge(pipeline.text_encoder, 3.0)
    eraser = efface.erase(pipeline, "cat", method=method)
    pipeline.to(BFLOAT16).set_progress_bar_config(disable=True)
    with eraser.attach(pipeline):
        run: Callable[..., Any] = pipeline
        run("a dog", num_inference_steps=1, output_type="latent")
        if method == "negative":
            with pytest.raises(efface.BadInput, match="negative prompt"):
                run("a dog", negative_prompt="horse", num_inference_steps=1, output_type="latent")


def test_the_margin_follows_the_coarser_of_two_dtypes() -> None:
    plain = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    assert embedding_margin(plain, plain.half().float()) == 1e-2
    assert embedding_margin(plain, plain.bfloat16().float()) == embedding_margin(plain.bfloat16(), plain) == 3e-2


def test_a_model_in_bfloat16_opened_from_a_folder_fits(tiny_model: Model, tiny_sd: Path) -> None:
    eraser = efface.erase(tiny_model, "cat", to="dog")
    eraser.attach(open_model(tiny_sd, dtype=BFLOAT16)).detach()
