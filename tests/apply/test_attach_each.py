"""One eraser a prompt: every image is the one that its eraser alone would make of its prompt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import efface
from efface import BadInput, Eraser, WrongBase
from efface.models import Model

# As in tests/generate: kernels for other batch sizes sum in another order, which may round to the next byte.
TOLERANCE = 1 / 255

PROMPTS = ["a cat", "a red cat", "a cat"]


@pytest.fixture
def cats(tiny_model: Model) -> Eraser:
    return efface.erase(tiny_model, "cat", to="house", lamb=0.001)


@pytest.fixture
def red_cats(tiny_model: Model) -> Eraser:
    return efface.erase(tiny_model, ["cat", "red"], to=["golf ball", "blue"], lamb=0.001, variant="window")


@pytest.fixture
def pipeline(tiny_model: Model) -> Any:
    made = tiny_model.pipeline()
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipeline: Any, prompt: str | list[str], first: int, count: int, **options: Any) -> np.ndarray:
    """Images of seeds `first`, `first + 1`, ...; (count, 16, 16, 3)."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(first, first + count)]
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "height": 16, "width": 16, **options}
    return pipeline(prompt, generator=generators, output_type="np", **options).images


@pytest.mark.parametrize(
    ("images", "options"),
    [(1, {}), (2, {}), (2, {"guidance_scale": 1.0}), (1, {"guidance_scale": 1.0}), (2, {"negative_prompt": "a cat"})],
)
def test_images_are_those_of_each_eraser_alone(
    pipeline: Any, cats: Eraser, red_cats: Eraser, images: int, options: dict[str, Any]
) -> None:
    erasers, count = [cats, None, red_cats], images * len(PROMPTS)
    single = {"num_images_per_prompt": images, **options}
    several = (
        {**single, "negative_prompt": [options["negative_prompt"]] * 3} if "negative_prompt" in options else single
    )
    plain = draw(pipeline, PROMPTS, 0, count, **several)
    with efface.attach_each(erasers, pipeline):
        together = draw(pipeline, PROMPTS, 0, count, **several)
    for index, (prompt, eraser) in enumerate(zip(PROMPTS, erasers, strict=True)):
        rows = slice(images * index, images * (index + 1))
        if eraser is None:
            alone = draw(pipeline, prompt, images * index, images, **single)
            assert np.abs(together[rows] - plain[rows]).max() <= TOLERANCE
        else:
            with eraser.attach(pipeline):
                alone = draw(pipeline, prompt, images * index, images, **single)
            assert np.abs(together[rows] - plain[rows]).max() > 5 / 255
        assert np.abs(together[rows] - alone).max() <= TOLERANCE
    assert np.array_equal(draw(pipeline, PROMPTS, 0, count, **several), plain)


def test_two_requests_in_the_same_words_get_their_own(pipeline: Any, cats: Eraser, red_cats: Eraser) -> None:
    alone: list[np.ndarray] = []
    for seed, eraser in enumerate((cats, red_cats)):
        with eraser.attach(pipeline):
            alone.append(draw(pipeline, "a red cat", seed, 1))
    with efface.attach_each([cats, red_cats], pipeline):
        together = draw(pipeline, ["a red cat"] * 2, 0, 2)
    assert np.abs(together - np.concatenate(alone)).max() <= TOLERANCE
    assert np.abs(alone[0] - alone[1]).max() > 5 / 255


def test_embeddings_by_hand_are_edited_row_by_row(
    pipeline: Any, tiny_model: Model, cats: Eraser, red_cats: Eraser
) -> None:
    text = tiny_model.embed(PROMPTS).tokens
    empty = tiny_model.embed([""] * 3).tokens
    with efface.attach_each([cats, None, red_cats], pipeline):
        words = draw(pipeline, PROMPTS, 0, 3)
        by_hand = draw(pipeline, None, 0, 3, prompt_embeds=text, negative_prompt_embeds=empty)  # pyright: ignore[reportArgumentType]
    assert np.abs(words - by_hand).max() <= TOLERANCE


def test_one_eraser_for_all_is_that_eraser_attached(pipeline: Any, cats: Eraser) -> None:
    with cats.attach(pipeline):
        alone = draw(pipeline, PROMPTS, 0, 3)
    for erasers in ([cats], [cats, cats, cats]):
        with efface.attach_each(erasers, pipeline):
            assert np.array_equal(draw(pipeline, PROMPTS, 0, 3), alone)


def test_strength_is_of_all(pipeline: Any, cats: Eraser) -> None:
    plain = draw(pipeline, PROMPTS, 0, 3)
    with efface.attach_each([cats, None, cats], pipeline, strength=0.0) as attachment:
        assert np.array_equal(draw(pipeline, PROMPTS, 0, 3), plain)
        attachment.set(1.0)
        assert not np.array_equal(draw(pipeline, PROMPTS, 0, 3), plain)


def test_a_batch_of_other_prompts_is_refused_in_words(pipeline: Any, cats: Eraser) -> None:
    with (
        efface.attach_each([cats, None], pipeline),
        pytest.raises(BadInput, match="one eraser, or None, for each prompt") as caught,
    ):
        draw(pipeline, PROMPTS, 0, 3)
    assert "\n" not in str(caught.value)


def test_what_acts_on_all_rows_at_once_is_refused(pipeline: Any, tiny_model: Model, cats: Eraser) -> None:
    for method in ("oce", "adavd"):
        shared = efface.erase(tiny_model, "cat", method=method)
        with pytest.raises(BadInput, match=f"made by {method}"):
            efface.attach_each([cats, shared], pipeline)
    with pytest.raises(BadInput, match="no eraser"):
        efface.attach_each([], pipeline)
    assert not pipeline.unet._forward_pre_hooks


def test_each_must_fit_the_base(tiny_model: Model, cats: Eraser, other_sd: Path) -> None:
    foreign = efface.erase(efface.open_model(other_sd), "cat", to="house")
    with pytest.raises(WrongBase):
        efface.attach_each([cats, foreign], tiny_model)
    efface.attach_each([cats, foreign, None], tiny_model, force=True).detach()
