"""Pictures of the families that draw by calling their own pipeline (`efface.generation.by_pipeline`)."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import efface
from efface import BadInput, Eraser, Model, open_model
from efface.generation import Job, Sampling, generate_images, sample

Tiny = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings("ignore:.*which the eraser does not edit")


def pictures(model: Model, jobs: list[Job], sampling: Sampling, eraser: Eraser | None = None) -> list[Any]:
    found = dict(sample(model, jobs, sampling, eraser))
    return [found[index] for index in range(len(jobs))]


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "flux2"])
def test_pictures_are_the_pipelines_own_whatever_the_batch(tiny: Tiny, family: str) -> None:
    pipeline = tiny(family)
    model = open_model(pipeline)
    sampling = Sampling(sampler="own", steps=2, guidance=3.0, batch_size=2)
    jobs = [Job(prompt, seed, width=16, height=16) for prompt, seed in (("a cat", 0), ("a house", 1), ("a cat", 2))]
    drawn = pictures(model, jobs, sampling)
    guidance: dict[str, Any] = {"guidance_scale": 3.0}
    if family == "flux":  # without an embedding of the guidance scale, and read up to its own number of tokens
        guidance = {"true_cfg_scale": 3.0, "negative_prompt": " ", "max_sequence_length": model.max_tokens}
    for job, picture in zip(jobs, drawn, strict=True):
        generator = torch.Generator().manual_seed(job.seed)
        own = pipeline(prompt=job.prompt, num_inference_steps=2, generator=generator, height=16,
                       width=16, output_type="np", **guidance).images[0]  # fmt: skip
        assert abs(picture.astype(int) - (own * 255).round().astype(int)).max() <= 1
    eraser = efface.erase(model, "cat", "dog", variant="window")
    edited = pictures(model, jobs[:1], sampling, eraser)
    assert (edited[0] != drawn[0]).any()
    assert not model.denoiser._forward_pre_hooks


def test_settings_of_a_family_are_its_pipelines(tiny: Tiny, tiny_model: Model) -> None:
    def default(family: str) -> tuple[str, int, float]:
        found = Sampling.default(open_model(tiny(family)))
        return found.sampler, found.steps, found.guidance

    assert default("flux") == ("own", 28, 1.0)
    assert open_model(tiny("flux")).guidance_argument == "true_cfg_scale"
    assert default("sd3") == ("own", 28, 7.0)
    assert default("sdxl") == ("own", 50, 5.0)
    assert Sampling.default(tiny_model) == Sampling()


def test_flux_with_an_embedding_of_the_guidance_scale_reads_that_scale(tiny: Tiny) -> None:
    pipeline = deepcopy(tiny("flux"))
    pipeline.transformer.register_to_config(guidance_embeds=True)
    model, job = open_model(pipeline), Job("a cat", negative="dog", width=16, height=16)
    assert model.guidance_argument == "guidance_scale"
    assert Sampling.default(model).guidance == 3.5
    with pytest.raises(BadInput, match="negative prompt"):
        pictures(model, [job], Sampling(sampler="own", steps=1))


def test_what_a_pipeline_cannot_do_is_refused(tiny: Tiny) -> None:
    flux, job = open_model(tiny("flux")), Job("a cat", width=16, height=16)
    with pytest.raises(BadInput, match="schedule of betas"):
        pictures(flux, [job], Sampling(sampler="ddim", steps=1))
    with pytest.raises(BadInput, match="clip_skip"):
        pictures(flux, [job], Sampling(sampler="own", steps=1, clip_skip=1))
    sdxl = open_model(tiny("sdxl"))
    before = sdxl.pipeline().scheduler
    for sampler in ("ddim", "dpm++"):
        negative = Job("a cat", negative="dog", width=16, height=16)
        one, other = pictures(sdxl, [job, negative], Sampling(sampler=sampler, steps=2))
        assert (one != other).any()
    assert sdxl.pipeline().scheduler is before


def test_a_folder_of_pictures_is_written_and_resumed(tiny: Tiny, tmp_path: Path) -> None:
    model = open_model(tiny("sd3"))
    jobs = [Job("a cat", seed, width=16, height=16) for seed in range(3)]
    sampling = Sampling(sampler="own", steps=1, guidance=7.0, batch_size=2)
    eraser = efface.erase(model, "cat", "dog")
    first = generate_images(model, jobs[:2], sampling, out=tmp_path / "out", eraser=eraser)
    again = generate_images(model, jobs, sampling, out=tmp_path / "out", eraser=eraser)
    assert [image.row["seed"] for image in again] == [0, 1, 2]
    assert [image.path for image in again[:2]] == [image.path for image in first]
    assert again[0].row["sampler"] == "own"
