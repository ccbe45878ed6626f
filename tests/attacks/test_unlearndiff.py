"""UnlearnDiffAtk against a literal loop of the published one, and its projection against the definition."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface.attacks import ATTACKS, Target
from efface.attacks.denoising import Denoising
from efface.attacks.soft_prompt import SoftPrompt, allowed
from efface.attacks.unlearndiff import UnlearnDiffConfig, _Descent, on_simplex, search
from efface.errors import BadInput
from efface.models import Model
from efface.tools import latents_of
from support import Trial

PROMPT = "a red cat"


def target(model: Model, seeds: range, prompts: Sequence[str] = (PROMPT,), **erased: Any) -> Target:
    return Target(model, efface.erase(model, "cat", **erased), "cat", tuple(prompts), seeds, latents_of(model))


def bisected(row: Tensor, tolerance: float = 1e-12) -> Tensor:
    """The published projection: the shift m at which max(row - m, 0) sums to 1, by bisection."""
    low, high = row.min() - 1, row.max()
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (middle, high) if (row - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (row - low).clamp(min=0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_the_projection_is_the_nearest_point_of_the_simplex(scale: float) -> None:
    rows = torch.randn(4, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * scale
    free = torch.ones(60, dtype=torch.bool)
    free[[0, 7]] = False
    found = on_simplex(rows, free)
    torch.testing.assert_close(found.sum(1), torch.ones(4, dtype=torch.float64))
    assert (found >= 0).all()
    assert (found[:, ~free] == 0).all()
    for row, near in zip(rows[:, free], found[:, free], strict=True):
        torch.testing.assert_close(near, bisected(row), atol=1e-9, rtol=0)
    torch.testing.assert_close(on_simplex(found, free), found)


def literal(model: Model, eraser: efface.Eraser, config: UnlearnDiffConfig, times: Sequence[int], seed: int) -> Tensor:
    """A after all times, by a loop of the equations: one-hot rows as leaves, an L2 term by hand, Adam by hand."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    schedule: Any = DDPMScheduler.from_config(dict(model.scheduler_config))
    z0 = latents_of(model)(PROMPT, [seed], steps=25, guidance=7.5, sampler="dpm++")
    free = allowed(model)
    encoder: Any = model.text_encoder
    words = encoder.get_input_embeddings().weight.detach()
    a = (free / free.sum()).repeat(config.k, 1)
    first, second, count = torch.zeros_like(a), torch.zeros_like(a), 0
    draw = torch.Generator().manual_seed(config.attack_seed)
    soft = SoftPrompt(model, PROMPT, config.k, config.insertion_location)
    for t in times:
        for _ in range(config.iterations):
            tokens = torch.multinomial(a, 1, generator=draw)[:, 0]
            noise = torch.randn(z0.shape, generator=draw)
            hot = torch.zeros_like(a).scatter_(1, tokens[:, None], 1.0).requires_grad_()
            bar = schedule.alphas_cumprod[t]
            noisy = bar.sqrt() * z0 + (1 - bar).sqrt() * noise
            with eraser.attach(model):
                text = soft.encode(tokens.tolist(), hot @ words)
                found = model.denoiser(noisy, torch.tensor([t]), encoder_hidden_states=text).sample
            ((found - noise) ** 2).mean().backward()
            assert hot.grad is not None
            gradient = hot.grad.clamp(-1, 1) * free + config.weight_decay * a
            count += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            a = a - config.lr * (first / (1 - 0.9**count)) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
            a = torch.stack(
                [torch.zeros_like(row).masked_scatter(free, bisected(row[free].double()).float()) for row in a]
            )
    model.denoiser.zero_grad()
    encoder.zero_grad()
    return a


@pytest.mark.parametrize("place", ["prefix_k", "insert_k"])
def test_it_is_the_published_loop(tiny_model: Model, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = UnlearnDiffConfig(k=2, timesteps=3, iterations=4, insertion_location=place)
    aim = target(tiny_model, range(5, 8), to="dog")
    trial = Trial()
    found: list[Tensor] = []
    from efface.attacks import unlearndiff

    monkeypatch.setattr(unlearndiff, "on_simplex", lambda *given: found.append(on_simplex(*given)) or found[-1])
    search(aim, config, trial)
    expected = literal(tiny_model, aim.eraser, config, [166, 500, 833], 5)
    assert len(found) == 12
    torch.testing.assert_close(found[-1], expected, atol=1e-5, rtol=1e-4)
    chosen = expected.argmax(1).tolist()
    assert trial.jobs[-1].prompt == SoftPrompt(tiny_model, PROMPT, 2, place).text(chosen)


def test_times_are_those_of_the_paper(tiny_model: Model) -> None:
    aim = target(tiny_model, range(100))
    assert _Descent(aim, UnlearnDiffConfig(), Denoising(aim)).times == list(range(10, 1000, 20))


def test_it_stops_where_the_concept_is_back(tiny_model: Model) -> None:
    trial = Trial(0.1, 0.8, 0.9)
    aim = replace(target(tiny_model, range(6)), enough=0.7)
    found = search(aim, UnlearnDiffConfig(iterations=1), trial)
    assert len(trial.jobs) == 2
    assert found[0].prompt == trial.jobs[1].prompt
    assert all(job.prompt.endswith(PROMPT) for job in found)


def test_with_several_prompts_the_tokens_are_given_with_each(tiny_model: Model) -> None:
    prompts = ("a red cat", "a picture of a cat")
    trial = Trial(0.2, 0.9, 0.1)
    found = search(target(tiny_model, range(3), prompts), UnlearnDiffConfig(iterations=1, keep=1), trial)
    words = trial.jobs[1].prompt.removesuffix(prompts[1]).strip()
    assert [job.prompt for job in found] == [f"{words} {prompt}" for prompt in prompts]


QUICK: dict[str, dict[str, Any]] = {
    "uce": {},
    "esd": {"iterations": 2, "ddim_steps": 4, "reuse": 2, "train_method": "esd-x"},
    "nullspace": {"layers": "0,1", "epochs": 1, "adam_steps": 2, "batch_size": 2, "sampling_steps": 2},
    "adavd": {},
    "negative": {},
}


@pytest.mark.parametrize("method", QUICK)
def test_it_takes_erasers_of_every_kind_and_leaves_the_model_as_it_was(tiny_model: Model, method: str) -> None:
    aim = target(tiny_model, range(2), method=method, **QUICK[method])
    parts = (tiny_model.denoiser, tiny_model.text_encoder)
    before = [{name: weight.clone() for name, weight in part.state_dict().items()} for part in parts]
    assert search(aim, UnlearnDiffConfig(iterations=2), Trial(0.3, 0.4))
    for part, weights in zip(parts, before, strict=True):
        assert all(torch.equal(weight, weights[name]) for name, weight in part.state_dict().items())


@pytest.mark.parametrize("method", ["adavd", "negative"])
def test_guards_are_in_the_loss(tiny_model: Model, method: str) -> None:
    aim = target(tiny_model, range(1), method=method)
    guarded, text = Denoising(aim), tiny_model.embed([PROMPT]).tokens
    picture = guarded.pictures(PROMPT)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        without = float(guarded.loss(text, picture, torch.tensor([500]), noise))
        with aim.eraser.attach(tiny_model):
            assert float(guarded.loss(text, picture, torch.tensor([500]), noise)) != without


def test_prompts_without_room_are_passed_over(tiny_model: Model) -> None:
    long = " ".join(["cat"] * (tiny_model.max_tokens - 3))
    found = search(target(tiny_model, range(1), (long, PROMPT)), UnlearnDiffConfig(iterations=1, keep=1), Trial(0.5))
    assert [job.prompt.endswith(PROMPT) for job in found] == [True]
    with pytest.raises(RuntimeError, match="no prompt has room"):
        search(target(tiny_model, range(1), (long,)), UnlearnDiffConfig(), Trial())


def test_models_whose_text_it_cannot_follow_are_refused() -> None:
    class Other:
        soft_tokens, name, call_parameters = False, "some-xl", None

    why = ATTACKS.get("unlearndiff").unfit(Other())  # type: ignore[arg-type]
    assert why is not None
    assert "some-xl" in why


def test_settings_are_checked() -> None:
    for wrong in ({"k": 0}, {"insertion_location": "middle"}, {"lr": 0.0}):
        with pytest.raises(BadInput):
            UnlearnDiffConfig.model_validate(wrong)
