"""Trajectories against DDIM's equation, and the published stopping rules."""

from typing import Any

import pytest
import torch
from torch import Tensor

from efface import Model
from efface.methods.training.objective import seeded
from efface.methods.training.trajectories import Rounds, TrajectorySampler

CONFIG: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
SHAPE = (4, 8, 8)
ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)


def test_points_are_those_of_single_trajectories_step_by_step(tiny_model: Model) -> None:
    """Three guided trajectories at once against each alone, by DDIM's equation in float64."""
    unet = tiny_model.denoiser
    texts = tiny_model.embed(["", "", "", "cat", "dog", "golf ball"]).tokens
    noise = torch.randn(3, 4, 8, 8, generator=seeded(1))
    sampler = TrajectorySampler(CONFIG, SHAPE, steps=5, guidance=3.0)
    stops, times = sampler.draw(3, 4, seeded(2))
    assert all(len(set(row)) == 4 for row in stops.tolist())
    grid = [801, 601, 401, 201, 1]
    assert times.tolist() == [[grid[stop] for stop in row] for row in stops.tolist()]

    def predict(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return unet(x, t, encoder_hidden_states=text).sample

    points, predictions = sampler.sample(predict, noise, texts, stops, last=True)
    for row in range(3):
        x = noise[row : row + 1].double()
        for done, t in enumerate(grid):
            with torch.no_grad():
                null, own = (predict(x.float(), torch.tensor(t), texts[i : i + 1]).double() for i in (row, 3 + row))
            for column in (stops[row] == done).nonzero():
                torch.testing.assert_close(points[row, column].double(), x, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(predictions[0, row, column].double(), null, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(predictions[1, row, column].double(), own, rtol=1e-4, atol=1e-5)
            eps = null + 3.0 * (own - null)
            now, then = ALPHAS[t], ALPHAS[max(t - 200, 0)]
            x = then.sqrt() * (x - (1 - now).sqrt() * eps) / now.sqrt() + (1 - then).sqrt() * eps


def test_no_step_is_done_that_no_point_needs() -> None:
    calls: list[float] = []

    def predict(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        calls.append(float(t[0]))
        return torch.zeros_like(x)

    sampler, noise, texts = TrajectorySampler(CONFIG, SHAPE, 50, 3.0), torch.ones(1, 1, 2, 2), torch.zeros(2, 1, 1)
    for stop, last, needed in ((0, False, 0), (0, True, 1), (3, False, 3), (3, True, 4)):
        calls.clear()
        points, _ = sampler.sample(predict, noise, texts, torch.tensor([[stop]]), last)
        assert len(calls) == needed
        assert torch.equal(points[0, 0], noise[0]) == (stop == 0)


def test_the_2023_code_stops_two_entries_of_the_grid_too_late() -> None:
    """k = 49 is 1 step, k = 1 and 0 are 49; what is trained at [20k, 20k + 19] has the level 20k - 39."""
    sampler = TrajectorySampler(CONFIG, SHAPE, 50, 1.0, compvis_quirk=True)
    stops, times = sampler.draw(1, 50, seeded(0))
    interval = times[0] // 20
    assert sorted(interval.tolist()) == list(range(50))
    done = dict(zip(interval.tolist(), stops[0].tolist(), strict=True))
    assert (done[49], done[1], done[0]) == (1, 49, 49)
    assert all(done[k] == 50 - k for k in range(1, 50))

    picture, noise = torch.randn(1, 4, 8, 8, generator=seeded(1)), torch.randn(1, 4, 8, 8, generator=seeded(2))
    noisiest = ALPHAS[961]
    start = (noisiest.sqrt() * picture + (1 - noisiest).sqrt() * noise).float()

    def predict(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        alpha = ALPHAS[int(t[0])]
        return ((x - alpha.sqrt() * picture) / (1 - alpha).sqrt()).float()

    points, _ = sampler.sample(predict, start, torch.zeros(2, 1, 1), stops, last=False)
    for k, point in zip(interval.tolist(), points[0], strict=True):
        level = ALPHAS[max(20 * k - 39, 0)]
        expected = (level.sqrt() * picture + (1 - level).sqrt() * noise)[0].float()
        torch.testing.assert_close(point, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_the_models_own_scheduler_samples_what_its_own_loop_samples(tiny_model: Model, name: str) -> None:
    import diffusers

    unet, texts = tiny_model.denoiser, tiny_model.embed(["", "cat"]).tokens
    config = {**CONFIG, "_class_name": name, "skip_prk_steps": True}
    sampler = TrajectorySampler(config, SHAPE, steps=6, guidance=2.0, own_scheduler=True)
    stops, times = sampler.draw(1, 6, seeded(3))
    noise = torch.randn(1, 4, 8, 8, generator=seeded(1))
    points, _ = sampler.sample(
        lambda x, t, text: unet(x, t, encoder_hidden_states=text).sample, noise, texts, stops, False
    )
    scheduler = getattr(diffusers, name).from_config(config)
    scheduler.set_timesteps(6)
    latents = noise * scheduler.init_noise_sigma
    for done, t in enumerate(scheduler.timesteps[:6]):
        x = scheduler.scale_model_input(latents, t)
        (column,) = (stops[0] == done).nonzero()
        assert float(times[0, column]) == float(t)
        torch.testing.assert_close(points[0, column], x, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            null, own = unet(torch.cat([x, x]), t, encoder_hidden_states=texts).sample.chunk(2)
        latents = scheduler.step(null + 2.0 * (own - null), t, latents).prev_sample


def test_rounds_are_drawn_when_they_are_needed_and_taken_up_again() -> None:
    drawn: list[tuple[int, int]] = []

    def draw(slot: int, number: int) -> dict[str, Tensor]:
        drawn.append((slot, number))
        return {"x": 100 * slot + 10 * number + torch.arange(3)}

    rounds = Rounds(draw, 3)
    assert [int(rounds.batch(2, step)["x"]) for step in range(5)] == [200, 201, 202, 210, 211]
    assert drawn == [(2, 0), (2, 1)]
    rounds.batch(7, 4)
    again = Rounds(draw, 3)
    again.restore(rounds.state(), slots=range(2, 3), device=torch.device("cpu"))
    drawn.clear()
    assert int(again.batch(2, 5)["x"]) == 212
    assert drawn == []
    assert set(again.state()) == {"2.x", "2.round"}
