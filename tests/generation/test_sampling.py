"""An image is decided by its job and the sampling: not by batch, order, company, or another's eraser."""

from pathlib import Path

import numpy as np
import pytest
import torch

import efface
from efface.errors import BadInput
from efface.generation import Job, Sampling, sample, sample_latents
from efface.generation.sampling import Pixels, _decode
from efface.models import Model

# Kernels for other batch sizes sum in another order: 1e-6 in the latents, which may round to the next byte.
TOLERANCE = 1

JOBS = [Job(prompt, seed) for seed in range(4) for prompt in ("a cat", "a red dog", "")]
JOBS += [Job("a car", 3, guidance=2.0, negative="blue"), Job("a car", 3, guidance=1.0), Job("a bird", 0, width=32)]


def images(model: Model, jobs: list[Job], sampling: Sampling, eraser: efface.Eraser | None = None) -> list[Pixels]:
    made = dict(sample(model, jobs, sampling, eraser))
    result = [made[i] for i in range(len(jobs))]
    assert all(image is not None for image in result)
    return [image for image in result if image is not None]


def difference(some: list[Pixels], others: list[Pixels]) -> int:
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("sampler", ["dpm++", "ddim"])
def test_batch_size_and_order_change_nothing(tiny_model: Model, sampler: str) -> None:
    def made(jobs: list[Job], batch_size: int) -> list[Pixels]:
        return images(tiny_model, jobs, Sampling(sampler, 6, 4.0, batch_size))  # pyright: ignore[reportArgumentType]

    alone = made(JOBS, 1)
    assert difference(alone, made(JOBS, 4)) <= TOLERANCE
    assert difference(alone, made(JOBS, 16)) <= TOLERANCE
    order = np.random.default_rng(0).permutation(len(JOBS)).tolist()
    shuffled = made([JOBS[i] for i in order], 4)
    assert difference([alone[i] for i in order], shuffled) <= TOLERANCE
    # Another seed, prompt, guidance or size is another image: the test above is not about one grey picture.
    assert difference([alone[0]], [alone[3]]) > 20
    assert alone[-1].shape == (16, 32, 3)


def test_same_run_is_the_same_to_the_bit(tiny_model: Model) -> None:
    sampling = Sampling(steps=5, guidance=4.0)
    assert difference(images(tiny_model, JOBS, sampling), images(tiny_model, JOBS, sampling)) == 0


def test_latents_are_what_the_images_are_decoded_from(tiny_model: Model) -> None:
    sampling = Sampling(steps=3, guidance=4.0, batch_size=2)
    latents = sample_latents(tiny_model, JOBS[:5], sampling)
    assert latents.shape == (5, 4, 8, 8)
    decoded, _ = _decode(tiny_model, latents)
    assert difference(list(decoded), images(tiny_model, JOBS[:5], sampling)) <= TOLERANCE


@pytest.mark.parametrize(("guidance", "negative"), [(4.0, None), (2.5, "blue"), (1.0, None)])
def test_it_is_the_pipelines_image(tiny_model: Model, guidance: float, negative: str | None) -> None:
    pipeline = tiny_model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a cat",
        negative_prompt=negative,
        num_inference_steps=7,
        guidance_scale=guidance,
        height=16,
        width=16,
        generator=torch.Generator().manual_seed(11),
        output_type="np",
    ).images[0]
    ours = images(tiny_model, [Job("a cat", 11, negative=negative)], Sampling("ddim", 7, guidance))[0]
    assert difference([(theirs * 255).round().astype(np.uint8)], [ours]) <= TOLERANCE


def test_samplers_approach_one_image(tiny_model: Model) -> None:
    """With many steps, the solvers of one equation agree; with few, second order is closer than first."""
    jobs = [Job("a cat", seed) for seed in range(2)]

    def made(sampler: str, steps: int) -> np.ndarray:
        return np.stack(images(tiny_model, jobs, Sampling(sampler, steps, 3.0))).astype(float)  # pyright: ignore[reportArgumentType]

    exact = made("ddim", 250)
    error = {key: np.abs(made(*key) - exact).mean() for key in (("dpm++", 50), ("dpm++", 12), ("ddim", 12))}
    assert error["dpm++", 50] < 0.7
    assert 2 * error["dpm++", 12] < error["ddim", 12]


def test_velocity_prediction(tiny_model: Model) -> None:
    """A model that predicts v is read as such: the same network, read otherwise, draws something else."""
    pipeline = tiny_model.pipeline()
    noise = images(tiny_model, JOBS[:1], Sampling("ddim", 5, 3.0))
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    velocity = efface.open_model(pipeline)
    ours = images(velocity, JOBS[:1], Sampling("ddim", 5, 3.0))
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        JOBS[0].prompt, num_inference_steps=5, guidance_scale=3.0, height=16, width=16, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert difference([(theirs[0] * 255).round().astype(np.uint8)], ours) <= TOLERANCE
    assert difference(noise, ours) > 20


def test_eraser_is_on_only_while_a_batch_runs(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", to="house", lamb=0.001)
    jobs = [Job("a red cat", seed) for seed in range(6)]
    sampling = Sampling("ddim", 5, 4.0, batch_size=2)
    plain, erased = images(tiny_model, jobs, sampling), images(tiny_model, jobs, sampling, eraser)
    assert difference(plain, erased) > 5
    # Two samplers take turns on one model, one with the eraser and one without.
    turns = zip(sample(tiny_model, jobs, sampling, eraser), sample(tiny_model, jobs, sampling), strict=True)
    for (i, one), (k, other) in turns:
        assert i == k
        assert one is not None
        assert other is not None
        assert np.array_equal(one, erased[i])
        assert np.array_equal(other, plain[k])


def test_no_strength_no_change(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", to="house")
    sampling = Sampling("ddim", 4, 4.0)
    weak = dict(sample(tiny_model, JOBS[:3], sampling, eraser, strength=0.0))
    assert difference([i for i in weak.values() if i is not None], images(tiny_model, JOBS[:3], sampling)) == 0


def test_numbers_that_are_not_finite_are_no_picture(tiny_sd: Path) -> None:
    model = efface.open_model(tiny_sd)
    model.denoiser.conv_out.weight.data.fill_(torch.nan)
    assert dict(sample(model, JOBS[:2], Sampling("ddim", 2))) == {0: None, 1: None}


def test_long_prompts_are_cut_with_a_warning(tiny_model: Model) -> None:
    with pytest.warns(UserWarning, match="cut"):
        made = dict(sample(tiny_model, [Job("a red cat " * 30)], Sampling("ddim", 2)))
    assert made[0] is not None


def test_size_must_fit_the_latents(tiny_model: Model) -> None:
    with pytest.raises(BadInput, match="multiples of 2"):
        list(sample(tiny_model, [Job("a", width=33)], Sampling("ddim", 2)))


def test_no_jobs(tiny_model: Model) -> None:
    assert list(sample(tiny_model, [])) == []


def test_lms(tiny_model: Model) -> None:
    pytest.importorskip("scipy", reason="diffusers' LMS integrates with SciPy")
    made = images(tiny_model, JOBS[:2], Sampling("lms", 8, 3.0))
    exact = images(tiny_model, JOBS[:2], Sampling("ddim", 100, 3.0))
    assert np.abs(np.stack(made).astype(float) - np.stack(exact)).mean() < 12
