"""Gradient checkpointing: the same gradients, whatever replaced the parameters, and nothing left over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadInput, Model, open_model
from efface.methods.trained.denoiser_parameters import trained_parameters
from efface.methods.training.weights import Copies, Networks, frozen
from efface.models.checkpointing import checkpointed
from support import relative

Tiny = Callable[..., Any]


def gradients(model: Model, weights: Copies, enabled: bool) -> tuple[Tensor, int]:
    """The gradients of a step as one vector, and the number of calls of attention layers."""
    x = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    text = model.denoiser_text(model.embed(["a cat", "a dog"]))
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    layer = next(module for name, module in model.denoiser.named_modules() if name.endswith("to_q"))
    hook = layer.register_forward_hook(count)
    weights.zero_grad()
    with frozen(model.denoiser), checkpointed(model.denoiser, enabled):
        networks = Networks(model, weights)
        predicted = networks.student(x, torch.tensor([300.0, 600.0]), text)
        # Calls between the forward and the backward pass, which must not change what runs again.
        networks.teacher(x, torch.tensor([300.0, 600.0]), text)
        with torch.no_grad():
            networks.student(x, torch.tensor([300.0, 600.0]), text)
        predicted.square().mean().backward()
    hook.remove()
    return torch.cat([p.grad.flatten() for p in weights.parameters() if p.grad is not None]), calls


@pytest.mark.parametrize("family", ["sd2", "sdxl", "sd3", "flux"])
def test_gradients_are_those_without_checkpointing(tiny: Tiny, family: str) -> None:
    model = open_model(tiny(family))
    weights = Copies(model.denoiser, trained_parameters(model.denoiser, "esd-x"))
    for tensor in weights.tensors:
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    plain, calls = gradients(model, weights, enabled=False)
    again, more = gradients(model, weights, enabled=True)
    assert len(plain) == sum(tensor.numel() for tensor in weights.tensors)
    assert relative(again, plain) < 1e-6
    assert more == calls + 1


@pytest.mark.parametrize(("method", "precision"), [("esd", "no"), ("esd", "bf16"), ("lora", "bf16")])
def test_a_training_with_checkpointing_is_that_without(tiny_sd: Path, method: str, precision: str) -> None:
    steps = {"esd": "ddim_steps", "lora": "max_denoising_steps"}[method]
    options: dict[str, Any] = {"iterations": 2, steps: 3, "reuse": 2, "lr": 1e-3, "mixed_precision": precision}
    plain, again = (
        efface.erase(tiny_sd, "cat", method=method, gradient_checkpointing=enabled, **options)
        for enabled in (False, True)
    )
    one, other = (
        torch.cat([tensor.flatten() for edit in eraser.edits for tensor in edit.tensors().values()])
        for eraser in (plain, again)
    )
    assert relative(other, one) < (1e-5 if precision == "no" else 0.1)


def test_the_denoiser_of_a_pipeline_is_left_as_its_owner_set_it(tiny: Tiny) -> None:
    unet = tiny("sdxl").unet
    unet.enable_gradient_checkpointing()
    layers = [module for module in unet.modules() if hasattr(module, "gradient_checkpointing")]
    functions = [vars(layer)["_gradient_checkpointing_func"] for layer in layers]
    with checkpointed(unet, enabled=False):
        assert all(layer.gradient_checkpointing for layer in layers)
    assert [vars(layer)["_gradient_checkpointing_func"] for layer in layers] == functions
    unet.disable_gradient_checkpointing()
    with checkpointed(unet):
        pass
    assert not any(layer.gradient_checkpointing for layer in layers)
    with pytest.raises(BadInput, match="Linear does not support"), checkpointed(torch.nn.Linear(1, 1)):
        pass
