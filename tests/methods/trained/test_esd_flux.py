"""ESD on a flow transformer: its first step against the equations, its parameters, and an eraser from end to end."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import efface
from efface import Model, Request, open_model
from efface.methods.trained.denoiser_parameters import trained_parameters
from efface.methods.trained.esd import Esd, EsdConfig
from efface.models.denoising import Conditions

Tiny = Callable[..., Any]
SMALL: dict[str, Any] = {"iterations": 2, "ddim_steps": 4, "image_size": 16, "lr": 1e-3}


@pytest.mark.parametrize(
    "family", ["flux", "flux-dev", "flux2", "chroma", "qwen-image", "sana", "lumina2", "wan", "sd3"]
)
def test_points_and_targets_are_those_of_eulers_method(tiny_model_of: Callable[[str], Model], family: str) -> None:
    """One trajectory in float64 arithmetic: x moves by (s' - s) times the guided velocity."""
    model = tiny_model_of(family)
    config = EsdConfig(ddim_steps=4, image_size=16, reuse=4, iterations=4, start_guidance=3, negative_guidance=2)
    objective = Esd(model, Request.make("cat"), config)
    found = {}
    for step in range(4):
        batch = objective.batch(0, step)
        found[round(float(batch["t"][0]), 3)] = (batch["x"][0].double(), batch["target"][0].double())
    shift = float(model.scheduler_config["shift"])
    # The scheduler's own levels go from the largest to the smallest of training, which it has shifted.
    last = shift * 1e-3 / (1 + (shift - 1) * 1e-3) if model.noise_levels == "scheduler" else 0.25
    levels = torch.linspace(1, last, 4, dtype=torch.float64)
    levels = shift * levels / (1 + (shift - 1) * levels)
    times = sorted(found, reverse=True)
    torch.testing.assert_close(torch.tensor(times, dtype=torch.float64), 1000 * levels, rtol=1e-4, atol=1e-3)
    texts = model.denoiser_text(model.embed(["", "cat"]))
    x = found[times[0]][0]
    for t, following in zip(times, [*times[1:], 0.0], strict=True):
        at, target = found[t]
        torch.testing.assert_close(at, x, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            both = model.predict(torch.stack([x, x]).float(), torch.tensor(t), Conditions(texts)).double()
            null, concept = both
            way = null + 3 * (concept - null)
            if model.with_guidance is not None:  # the trajectory has the scale 3, the target the scale 1
                scaled = Conditions(model.with_guidance(texts[1:], 3.0))
                way = model.predict(x[None].float(), torch.tensor(t), scaled)[0].double()
        torch.testing.assert_close(target, concept - 2 * (concept - null), rtol=1e-4, atol=1e-4)
        x = x + (following - t) / 1000 * way


def test_a_trained_eraser_changes_images_and_is_detached_exactly(tiny: Tiny, tmp_path: Path) -> None:
    model = open_model(deepcopy(tiny("flux")))
    before = {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}
    eraser = efface.erase(model, "cat", method="esd", train_method="esd-x", **SMALL)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.denoiser.state_dict().items())
    assert {edit.parameter.removeprefix("denoiser.") for edit in eraser.edits} == set(  # pyright: ignore[reportAttributeAccessIssue]
        trained_parameters(model.denoiser, "esd-x")
    )
    eraser.save(tmp_path / "cat.safetensors")
    x, t, text = torch.ones(1, 4, 4, 4), torch.tensor([500.0]), Conditions(model.denoiser_text(model.embed(["cat"])))
    with torch.no_grad():
        base = model.predict(x, t, text)
        with efface.Eraser.load(tmp_path / "cat.safetensors").attach(model):
            assert (model.predict(x, t, text) - base).abs().max() > 1e-4
        assert torch.equal(model.predict(x, t, text), base)


@pytest.mark.parametrize(
    ("train_method", "inside", "outside"),
    [
        ("esd-x", ".attn.add_q_proj.", ".ff."),
        ("esd-x-strict", ".attn.to_k.", ".attn.to_q."),
        ("esd-u", ".norm1.linear.", ".attn."),
        ("esd-all", "context_embedder.", ".attn.norm_q."),
    ],
)
def test_the_sets_of_a_transformer_are_by_its_attention(
    tiny: Tiny, train_method: Any, inside: str, outside: str
) -> None:
    denoiser = open_model(tiny("flux")).denoiser
    names = trained_parameters(denoiser, train_method)
    assert any(inside in name for name in names)
    assert not any(outside in name for name in names)
    with pytest.raises(efface.BadRequest, match="xattn"):
        trained_parameters(denoiser, "xattn")


def test_the_fused_blocks_of_flux2_are_left_out(tiny_model_of: Callable[[str], Model]) -> None:
    denoiser = tiny_model_of("flux2").denoiser
    attention = trained_parameters(denoiser, "esd-x")
    assert {name.split(".")[0] for name in attention} == {"transformer_blocks"}
    assert any(name.endswith("attn.to_add_out.weight") for name in attention)
    strict = trained_parameters(denoiser, "esd-x-strict")
    assert {name.split(".attn.")[1] for name in strict} == {
        f"{name}.weight" for name in ("to_k", "to_v", "add_k_proj", "add_v_proj")
    }
    assert any("to_qkv_mlp_proj" in name for name in trained_parameters(denoiser, "esd-u"))


@pytest.mark.parametrize("family", ["sana", "pixart", "wan"])
def test_transformers_with_cross_attention_have_the_sets_of_u_nets(
    tiny_model_of: Callable[[str], Model], family: str
) -> None:
    denoiser = tiny_model_of(family).denoiser
    assert all(".attn2." in name for name in trained_parameters(denoiser, "esd-x"))
    strict = trained_parameters(denoiser, "esd-x-strict")
    assert all(".attn2.to_k." in name or ".attn2.to_v." in name for name in strict)
    assert not any(".attn2." in name for name in trained_parameters(denoiser, "esd-u"))
