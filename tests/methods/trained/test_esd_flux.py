"""ESD on a flow transformer: its first step against the equations, its parameters, and an eraser from end to end."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import efface
from efface import BadInput, Request, open_model
from efface.methods.trained.denoiser_parameters import trained_parameters
from efface.methods.trained.esd import Esd, EsdConfig
from efface.models.denoising import Conditions

Tiny = Callable[..., Any]
SMALL: dict[str, Any] = {"iterations": 2, "ddim_steps": 4, "image_size": 16, "lr": 1e-3}


def test_points_and_targets_are_those_of_eulers_method(tiny: Tiny) -> None:
    """One trajectory in float64 arithmetic: x moves by (s' - s) times the guided velocity."""
    model = open_model(tiny("flux"))
    config = EsdConfig(ddim_steps=4, image_size=16, reuse=4, iterations=4, start_guidance=3, negative_guidance=2)
    objective = Esd(model, Request.make("cat"), config)
    found = {}
    for step in range(4):
        batch = objective.batch(0, step)
        found[round(float(batch["t"][0]), 3)] = (batch["x"][0].double(), batch["target"][0].double())
    times = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    shift = float(model.scheduler_config["shift"])
    levels = shift * times / (1 + (shift - 1) * times)
    assert sorted(found, reverse=True) == [round(float(1000 * s), 3) for s in levels]
    texts = model.denoiser_text(model.embed(["", "cat"]))
    x = found[1000.0][0]
    for s, following in zip(levels.tolist(), [*levels.tolist()[1:], 0.0], strict=True):
        at, target = found[round(1000 * s, 3)]
        torch.testing.assert_close(at, x, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            both = model.predict(torch.stack([x, x]).float(), torch.tensor(1000 * s), Conditions(texts)).double()
        null, concept = both
        torch.testing.assert_close(target, concept - 2 * (concept - null), rtol=1e-4, atol=1e-4)
        x = x + (following - s) * (null + 3 * (concept - null))


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


def test_a_distilled_guidance_scale_is_not_trained(tiny: Tiny) -> None:
    pipeline = deepcopy(tiny("flux"))
    pipeline.transformer.register_to_config(guidance_embeds=True)
    with pytest.raises(BadInput, match="guidance scale distilled"):
        efface.erase(open_model(pipeline), "cat", method="esd", **SMALL)
