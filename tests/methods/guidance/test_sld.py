"""Safe latent guidance against the published equations, step by step, and its attachment to a whole sampling."""

from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadInput, Model
from efface.generation import Sampling, jobs_for, sample
from efface.methods.guidance.sld import PUBLISHED, SafetyGuidance


def literal(u: Tensor, c: Tensor, s: Tensor, nu: Tensor, step: int, settings: Any) -> tuple[Tensor, Tensor]:
    """Equations 3 to 8 element by element: what guidance c - u becomes, and the momentum."""
    guidance, momentum = torch.empty_like(c), torch.empty_like(c)
    for at in range(c.numel()):
        ui, ci, si, ni = (float(x.flatten()[at]) for x in (u, c, s, nu))
        mu = 0.0 if ci - si >= settings["sld_threshold"] else min(1.0, abs(ci - si) * settings["sld_guidance_scale"])
        gamma = mu * (si - ui) + settings["sld_momentum_scale"] * ni
        momentum.view(-1)[at] = settings["sld_mom_beta"] * ni + (1 - settings["sld_mom_beta"]) * gamma
        guidance.view(-1)[at] = ci - ui - (gamma if step >= settings["sld_warmup_steps"] else 0.0)
    return guidance, momentum


@pytest.mark.parametrize("strength", ["weak", "medium", "strong", "max"])
def test_it_is_the_published_equations(strength: Any) -> None:
    settings = {**PUBLISHED[strength], "sld_warmup_steps": min(2, int(PUBLISHED[strength]["sld_warmup_steps"]))}
    generator = torch.Generator().manual_seed(0)
    safety, nu = SafetyGuidance(settings), torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    for step in range(5):
        u, c, s = (0.02 * torch.randn(3, 2, 1, 3, 3, generator=generator, dtype=torch.float64)).unbind()
        expected, nu = literal(u, c, s, nu, step, settings)
        torch.testing.assert_close(c - safety.step(u, c, s) - u, expected, rtol=0, atol=1e-12)


def test_the_four_strengths_are_those_of_diffusers() -> None:
    from diffusers.pipelines.deprecated.stable_diffusion_safe import SafetyConfig

    for name, settings in PUBLISHED.items():
        assert settings == getattr(SafetyConfig, name.upper())


def test_only_the_conditional_half_is_steered(tiny_model: Model, guided: Any) -> None:
    plain = guided(tiny_model, ["a cat", "a house"])
    concept = guided(tiny_model, ["cat", "cat"])[2:]
    u, c = plain.chunk(2)
    eraser = efface.erase(tiny_model, "cat", method="sld", preset="max")
    with eraser.attach(tiny_model):
        steered = guided(tiny_model, ["a cat", "a house"])
    away = SafetyGuidance(PUBLISHED["max"]).step(u, c, concept)
    torch.testing.assert_close(steered, torch.cat([u, c - away]), rtol=1e-4, atol=1e-5)
    assert float(away.abs().max()) > 1e-3


def test_warm_up_and_momentum_begin_anew_with_each_run(tiny_model: Model, guided: Any) -> None:
    eraser = efface.erase(tiny_model, "cat", method="sld", preset="max", sld_warmup_steps=1)
    plain = [guided(tiny_model, ["a cat"], step=step) for step in (900, 500, 100)]
    with eraser.attach(tiny_model):
        first = [guided(tiny_model, ["a cat"], step=step) for step in (900, 500, 100)]
        second = [guided(tiny_model, ["a cat"], step=step) for step in (900, 500, 100)]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    torch.testing.assert_close(first[0], plain[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first[1], plain[1], rtol=1e-3, atol=1e-3)


def test_the_sampler_and_a_pipeline_draw_the_same(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", method="sld", preset="max")
    pipeline = tiny_model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    jobs = jobs_for(["a cat"], 1, 3)
    sampling = Sampling("ddim", steps=3, guidance=5.0)
    ((_, found),) = sample(tiny_model, jobs, sampling, eraser)
    ((_, plain),) = sample(tiny_model, jobs, sampling)
    with eraser.attach(pipeline):
        drawn = pipeline(
            "a cat", num_inference_steps=3, guidance_scale=5.0, generator=torch.Generator().manual_seed(3),
            output_type="np",
        ).images[0]  # fmt: skip
    assert found is not None
    assert plain is not None
    assert abs((drawn * 255).round() - found.astype(float)).max() <= 1
    assert (found != plain).any()


def test_without_guidance_it_is_refused(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", method="sld")
    with pytest.raises(BadInput, match="guidance scale above 1"):
        list(sample(tiny_model, jobs_for(["a cat"], 2, 0), Sampling("ddim", steps=1, guidance=1.0), eraser))


@pytest.mark.parametrize("options", [{"preset": "huge"}, {"sld_mom_beta": 1.0}, {"sld_warmup_steps": -1}])
def test_settings_out_of_range_are_refused(tiny_model: Model, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        efface.erase(tiny_model, "cat", method="sld", **options)
