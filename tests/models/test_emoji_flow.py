"""The embedded flow transformer: diffusers opens it unchanged, it draws what its prompts name, and it forgets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import efface
from efface import Model, open_model
from efface.generation import Job, Sampling, sample
from efface.judges import open_judge
from efface.models import emoji, emoji_flow

NAMES = ("cat", "car", "guitar", "penguin")


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model("emoji-flow")


def shares(model: Model, names: tuple[str, ...], eraser: efface.Eraser | None = None, n: int = 4) -> list[float]:
    """For each name the share of n images that show it."""
    jobs = [Job(f"a {name}", 500 + seed) for name in names for seed in range(n)]
    images = np.stack([image for _, image in sample(model, jobs, eraser=eraser) if image is not None])
    scores = open_judge("emoji").scores(images, names)
    return [float((scores[i * n : (i + 1) * n, i] > 0.5).mean()) for i in range(len(names))]


def test_flux_pipeline_opens_the_folder_and_makes_the_same_image(model: Model) -> None:
    from diffusers import FluxPipeline

    loading: dict[str, Any] = {"torch_dtype": torch.float32}
    pipeline: Any = FluxPipeline.from_pretrained(emoji_flow.HERE / "weights", **loading)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a red cat", negative_prompt="", true_cfg_scale=4.0, num_inference_steps=4, height=64, width=64,
        max_sequence_length=24, generator=torch.Generator().manual_seed(3), output_type="np",
    ).images[0]  # fmt: skip
    ((_, own),) = sample(model, [Job("a red cat", 3)], Sampling("own", 4, 4.0))
    assert own is not None
    assert np.abs((255 * image).round() - own).max() <= 1


def test_its_world_and_judge_are_those_of_emoji(model: Model) -> None:
    assert model.world is emoji.catalogue()
    assert (model.family, model.default_judge, model.clip) == ("flux", "emoji", "emoji")
    assert model.latent_shape == (4, 16, 16)
    assert Sampling.default(model).sampler == "own"


def test_it_draws_objects_and_forgets_one_of_them_by_default(model: Model) -> None:
    assert min(shares(model, NAMES)) >= 0.75
    eraser = efface.erase(model, "cat")
    cat, *others = shares(model, NAMES, eraser)
    assert cat == 0
    assert min(others) >= 0.5
    assert float(np.mean(others)) >= 0.75


def test_an_edit_of_the_text_is_in_both_streams(model: Model) -> None:
    eraser = efface.erase(model, "cat", to="dog")
    assert sorted(edit.stream for edit in eraser.edits) == ["pooled", "text"]  # pyright: ignore[reportAttributeAccessIssue]
