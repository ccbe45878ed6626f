"""A negative prompt as an eraser is diffusers' own, and refuses where it could not be."""

from typing import Any

import pytest
import torch

import efface
from efface import BadInput, Eraser, Model


@pytest.fixture
def eraser(tiny_model: Model) -> Eraser:
    return efface.erase(tiny_model, ["cat", "golf ball"], method="negative")


def test_it_is_the_negative_prompt_of_a_guided_batch(eraser: Eraser, tiny_model: Model, guided: Any) -> None:
    prompts = ("a cat", "")  # an empty prompt stays one
    expected = guided(tiny_model, prompts, negative="cat, golf ball")
    with eraser.attach(tiny_model):
        found = guided(tiny_model, prompts)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_pipeline_draws_as_with_that_negative_prompt(eraser: Eraser, tiny_model: Model) -> None:
    pipeline = tiny_model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "latent"}

    def latents(**more: Any) -> torch.Tensor:
        return pipeline("a cat", generator=torch.Generator().manual_seed(0), **arguments, **more).images

    expected = latents(negative_prompt="cat, golf ball")
    with eraser.attach(pipeline):
        found = latents()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(found, latents())


def test_where_there_is_no_guidance_or_another_negative_prompt_it_is_refused(
    eraser: Eraser, tiny_model: Model, guided: Any
) -> None:
    text = tiny_model.embed(["", "a cat"]).tokens
    with eraser.attach(tiny_model), torch.no_grad():
        with pytest.raises(BadInput, match="guidance scale above 1"):
            tiny_model.denoiser(torch.randn(2, 4, 8, 8), torch.tensor(5), encoder_hidden_states=text)
        with pytest.raises(BadInput, match="has one already"):
            guided(tiny_model, ["a cat"], negative="dog")


def test_half_precision_is_recognised(eraser: Eraser, tiny_sd: Any, guided: Any) -> None:
    model = efface.open_model(tiny_sd, dtype=torch.bfloat16)
    expected = guided(model, ["a house"], negative="cat, golf ball")
    with eraser.attach(model):
        torch.testing.assert_close(guided(model, ["a house"]), expected, rtol=0.1, atol=0.05)


def test_what_it_has_no_use_for_is_said(tiny_model: Model) -> None:
    with pytest.warns(UserWarning, match="no guides"), pytest.warns(UserWarning, match="no preserve list"):
        efface.erase(tiny_model, "cat", "dog", preserve=["house"], method="negative")


def test_concepts_are_given_back_with_the_model(eraser: Eraser, tiny_model: Model) -> None:
    rest = eraser.without("golf ball", model=tiny_model)
    assert rest.hash == efface.erase(tiny_model, "cat", method="negative").hash
