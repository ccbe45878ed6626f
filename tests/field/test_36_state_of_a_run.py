"""What sld remembers belongs to one run: each run on an attached model equals the same run on a newly attached one."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import efface
from efface import Eraser, Model
from efface.apply.runs import Runs
from tiny_families import diffusers

Run = Callable[[], Any]


@pytest.fixture
def eraser(loud_model: Model) -> Eraser:
    return efface.erase(loud_model, "cat", method="sld", preset="max", sld_warmup_steps=2)


@pytest.fixture
def pipeline(loud_model: Model) -> Any:
    pipeline: Any = loud_model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def text_to_image(pipeline: Any, steps: int, seed: int = 0, **options: Any) -> Any:
    return pipeline(
        "a cat", num_inference_steps=steps, guidance_scale=5.0, generator=torch.Generator().manual_seed(seed),
        output_type="latent", **options,
    ).images.numpy()  # fmt: skip


def image_to_image(pipeline: Any, strength: float, steps: int = 10) -> Any:
    other: Any = diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return other(
        "a cat", image=image, strength=strength, num_inference_steps=steps, guidance_scale=5.0,
        generator=torch.Generator().manual_seed(2), output_type="latent",
    ).images.numpy()  # fmt: skip


def aborted(pipeline: Any, after: int) -> None:
    def stop(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == after:
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt):
        text_to_image(pipeline, 6, callback_on_step_end=stop)


@pytest.mark.parametrize(
    ("before", "run"),
    [
        (lambda pipe: text_to_image(pipe, 20), lambda pipe: text_to_image(pipe, 10)),
        (lambda pipe: text_to_image(pipe, 6), lambda pipe: image_to_image(pipe, 0.5)),
        (lambda pipe: image_to_image(pipe, 0.8), lambda pipe: image_to_image(pipe, 0.4)),
        (lambda pipe: aborted(pipe, 1), lambda pipe: image_to_image(pipe, 0.5)),
        (lambda pipe: aborted(pipe, 0), lambda pipe: text_to_image(pipe, 5)),
        (lambda pipe: aborted(pipe, 3), lambda pipe: text_to_image(pipe, 6)),
    ],
    ids=["fewer_steps", "img2img", "weaker_img2img", "img2img_after_abort", "abort_first", "abort_late"],
)  # fmt: skip
def test_a_run_does_not_depend_on_the_run_before(eraser: Eraser, pipeline: Any, before: Any, run: Any) -> None:
    with eraser.attach(pipeline):
        expected = run(pipeline)
    assert not np.allclose(run(pipeline), expected, atol=1e-3)
    with eraser.attach(pipeline):
        before(pipeline)
        found = run(pipeline)
    assert np.array_equal(found, expected)


def test_a_run_inside_another_run(eraser: Eraser, pipeline: Any) -> None:
    def other(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            image_to_image(pipe, 0.4)
        return tensors

    parts = {**pipeline.components, "scheduler": diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)}
    outer: Any = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    outer.set_progress_bar_config(disable=True)

    def interrupted(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return other(pipeline, step, timestep, tensors)

    with eraser.attach(pipeline):
        expected = text_to_image(outer, 6)
        found = text_to_image(outer, 6, callback_on_step_end=interrupted)
    assert np.array_equal(found, expected)


def test_two_loops_that_take_turns_on_one_denoiser(eraser: Eraser, loud_model: Model) -> None:
    def loop(seed: int, grid: torch.Tensor) -> Any:
        half = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        text = torch.cat([loud_model.embed([""]).tokens, loud_model.embed(["a cat"]).tokens])
        for t in grid:
            with torch.no_grad():
                prediction = loud_model.denoiser(torch.cat([half, half]), t, encoder_hidden_states=text).sample
            yield prediction
            half = half - 0.1 * prediction[1:]

    grids = torch.tensor([900, 700, 500, 300]), torch.tensor([900, 600, 400, 200])
    with eraser.attach(loud_model):
        expected = [list(loop(seed, grid)) for seed, grid in enumerate(grids)]
    with eraser.attach(loud_model):
        found = list(zip(*(loop(seed, grid) for seed, grid in enumerate(grids)), strict=True))
    for one, both in zip(zip(*expected, strict=True), found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, both, strict=True))


def test_runs_without_a_grid_in_memory() -> None:
    runs: Runs[object] = Runs(object)
    first = [runs.state(torch.tensor(float(t)), 1) for t in (999, 749, 749, 499)]  # a sampler of second order repeats
    assert len(set(map(id, first))) == 1
    second = [runs.state(t, 1) for t in (601, 301)]  # rises above 499, below the first timestep of the run before
    assert second[0] is second[1] is not first[0]
    assert runs.state(torch.full((2,), 301.0), 2) is not second[0]  # another number of images
    in_thread: list[object] = []
    last = runs.state(201, 2)
    thread = threading.Thread(target=lambda: in_thread.append(runs.state(101, 2)))
    thread.start()
    thread.join()
    assert in_thread[0] is not last
    assert runs.state(101, 2) is last


def test_single_steps_are_runs() -> None:
    runs: Runs[object] = Runs(object)
    assert len({id(state) for state in [runs.state(torch.tensor([999])[0], 1) for _ in range(3)]}) == 3


@pytest.mark.parametrize(
    "timestep",
    [
        lambda t: torch.full((2,), t), lambda t: torch.tensor(t).repeat(2), float,
        lambda t: torch.tensor([t]).expand(2), lambda t: torch.tensor(t / 1000).expand(3), lambda t: torch.tensor([t]),
    ],
)  # fmt: skip
def test_timesteps_in_memory_of_their_own_belong_to_one_run(timestep: Callable[[int], Any]) -> None:
    runs: Runs[list[int]] = Runs(list)
    states = [runs.state(timestep(t), 1) for t in (900, 700, 500)]
    assert states[0] is states[1] is states[2]
    assert runs.state(timestep(900), 1) is not states[0]


@pytest.mark.parametrize(
    "timestep", [lambda t: t, lambda t: t.expand(2), lambda t: t[None], lambda t: t[None].expand(2)]
)
def test_runs_whose_timesteps_are_elements_of_a_grid_can_take_turns(
    timestep: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    runs: Runs[list[int]] = Runs(list)
    grids = torch.tensor([900.0, 700.0, 500.0]), torch.tensor([900.0, 600.0, 400.0])
    states = [[runs.state(timestep(grid[step]), 1) for grid in grids] for step in range(3)]
    assert all(step[0] is states[0][0] and step[1] is states[0][1] for step in states)
    assert states[0][0] is not states[0][1]
