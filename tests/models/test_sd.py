from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from efface import BadRequest, Model, open_model


@pytest.fixture(scope="module")
def pipeline(tiny_sd: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(tiny_sd)


def test_embeddings_are_the_pipelines_bitwise(tiny_model: Model, pipeline: Any) -> None:
    prompts = ["a cat", "golf ball", "", "cat"]
    with torch.no_grad():
        expected = torch.cat([pipeline.encode_prompt(prompt, "cpu", 1, False)[0] for prompt in prompts])
    found = tiny_model.embed([*prompts, "cat"])
    assert torch.equal(found.tokens[:-1], expected)
    assert torch.equal(found.tokens[-1], expected[-1])
    assert found.prompts == (*prompts, "cat")


def test_an_embedding_does_not_depend_on_its_batch(tiny_model: Model) -> None:
    prompts = [f"a cat {letter}" for letter in "abcdefgh"]
    whole = tiny_model.embed(prompts).tokens
    assert torch.equal(tiny_model.embed(prompts, batch_size=3).tokens, whole)


def test_no_prompts_are_no_rows(tiny_model: Model) -> None:
    found = tiny_model.embed([])
    assert found.tokens.shape == (0, tiny_model.max_tokens, tiny_model.width)
    assert found.last_tokens.shape == (0, tiny_model.width)


def test_the_last_subject_token_stands_before_the_end_token(tiny_model: Model) -> None:
    found = tiny_model.embed(["cat", "golf ball", "a cat", "", "   "])
    assert found.last.tolist() == [1, 2, 2, 0, 0]
    assert torch.equal(found.last_tokens, torch.stack([found.tokens[i, j] for i, j in enumerate(found.last)]))
    assert torch.equal(found.tokens[3], found.tokens[4])
    # The start token sees nothing but itself: it is the same in every prompt.
    assert torch.equal(found.tokens[:, 0], found.tokens[:1, 0].expand(5, -1))


def test_last_tokens_are_the_embeddings_without_their_padding(tiny_model: Model) -> None:
    prompts = ["cat", "a photo of a red cat", "", "golf ball", "cat", "a cat"]
    several: list[dict[str, Any]] = [{}, {"clip_skip": 1}, {"batch_size": 2}]
    for options in several:
        found = tiny_model.last_tokens(prompts, **options)
        torch.testing.assert_close(found, tiny_model.embed(prompts, **options).last_tokens, rtol=1e-5, atol=1e-6)
    assert tiny_model.last_tokens([]).shape == (0, tiny_model.width)
    with pytest.raises(BadRequest, match="at most"):
        tiny_model.last_tokens(["cat " * 40])


def test_a_prompt_longer_than_the_tokenizers_maximum_is_refused_or_cut(tiny_model: Model) -> None:
    longest = "cat " * (tiny_model.max_tokens - 2)
    assert tiny_model.embed([longest]).last.tolist() == [tiny_model.max_tokens - 2]
    with pytest.raises(BadRequest, match=f"at most {tiny_model.max_tokens}"):
        tiny_model.embed(["dog", longest + "cat"])
    assert torch.equal(tiny_model.embed([longest + "dog"], truncate=True).tokens, tiny_model.embed([longest]).tokens)


def test_clip_skip_takes_an_earlier_layer_through_the_final_norm(tiny_model: Model) -> None:
    encoder: Any = tiny_model.text_encoder
    layers = encoder.encoder.layers
    skipped = tiny_model.embed(["a cat"], clip_skip=1).tokens
    assert not torch.equal(skipped, tiny_model.embed(["a cat"]).tokens)
    encoder.encoder.layers = layers[:-1]  # a text encoder that ends one layer earlier
    torch.testing.assert_close(tiny_model.embed(["a cat"]).tokens, skipped)
    encoder.encoder.layers = layers
    with pytest.raises(BadRequest, match="2 layers"):
        tiny_model.embed(["a cat"], clip_skip=2)


def test_text_weights_are_streamed_without_the_denoiser_and_equal_its_own(tiny_sd: Path) -> None:
    streaming, loaded = open_model(tiny_sd), open_model(tiny_sd)
    denoiser = loaded.denoiser
    modules = dict(denoiser.named_modules())
    expected = {f"{name}.weight" for name in modules if name.endswith(("attn2.to_k", "attn2.to_v"))}
    assert set(streaming.text_parameters()) == set(loaded.text_parameters()) == expected
    assert all(modules[name.removesuffix(".weight")].bias is None for name in expected)
    for name, weight in streaming.text_weights():
        assert torch.equal(weight, denoiser.get_parameter(name))


def test_a_pipeline_and_its_model_share_their_parts(tiny_model: Model, pipeline: Any) -> None:
    assert open_model(pipeline).denoiser is pipeline.unet
    assert tiny_model.pipeline().unet is tiny_model.denoiser
    assert open_model(pipeline).scheduler_config["_class_name"] == "DDIMScheduler"
    assert tiny_model.scheduler_config["beta_schedule"] == "scaled_linear"
    assert tiny_model.width == open_model(pipeline).width == 32


def test_the_same_seed_gives_the_pipelines_pictures(tiny_model: Model, pipeline: Any) -> None:
    def picture(of: Any) -> Any:
        of.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        return of("a cat", num_inference_steps=2, generator=generator, output_type="np").images

    # Channels last adds up in another order.
    np.testing.assert_allclose(picture(tiny_model.pipeline()), picture(pipeline), atol=1e-5)


def test_hashes_know_the_weights(tiny_sd: Path, other_sd: Path) -> None:
    one, other = open_model(tiny_sd), open_model(other_sd)
    assert one.hash == open_model(tiny_sd).hash != other.hash
    assert one.part_hash("text_encoder") != other.part_hash("text_encoder")
    assert len(one.hash) == 64


def test_the_shape_of_latents_is_that_of_the_pipelines(tiny_model: Model, pipeline: Any) -> None:
    assert tiny_model.pixels_per_latent == pipeline.vae_scale_factor
    shape = (pipeline.unet.config.in_channels, *(2 * [pipeline.unet.config.sample_size]))
    assert tiny_model.latent_shape == shape
    assert pipeline("a cat", num_inference_steps=1, output_type="latent").images.shape[1:] == shape
