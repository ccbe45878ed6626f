"""Adapters of low rank: the gradients of dense weights, no tensor of a weight's size, and nothing left over."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from efface import Model, open_model
from efface.methods.trained.lora.layers import Network, trained_layers
from efface.methods.training.low_rank import LowRank
from efface.methods.training.weights import Networks, frozen
from efface.models.checkpointing import checkpointed
from efface.models.denoising import Conditions
from efface.models.parameters import Adapter, Parameters
from support import random32, relative

TinyModel = Callable[[str], Model]
#: Families and layers: convolutions, groups of channels, and latents in lists.
LAYERS: Mapping[str, Network] = {"sdxl": "resnet", "sana": "transformer", "z-image": "transformer"}


def low_rank(model: Model, network: Network) -> LowRank:
    """Factors of rank 2 with changes that are not zero."""
    layers = trained_layers(model.denoiser, network)
    weights = LowRank(model.denoiser, layers, 2, 1.0, torch.Generator().manual_seed(0))
    for index, up in enumerate(weights.up):
        up.data = 0.3 * random32(*up.shape, seed=index)
    return weights


def dense(model: Model, parameters: Parameters) -> dict[str, Tensor]:
    """The weights W + scale up down of all layers."""
    found: dict[str, Tensor] = {}
    for name, adapter in parameters.items():
        assert isinstance(adapter, Adapter)
        base = model.denoiser.get_parameter(f"{name}.weight")
        found[f"{name}.weight"] = base + adapter.scale * (adapter.up @ adapter.down).view(base.shape)
    return found


def inputs(model: Model) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of a prediction for three samples."""
    text = model.denoiser_text(model.embed(["a cat", "a dog", "a horse"]))
    return random32(3, model.latent_shape[0], 8, 8), torch.tensor([300.0, 600.0, 500.0]), text


@contextmanager
def in_float64(pipeline: Any) -> Generator[Model, None, None]:
    """A model whose denoiser is in float64 and frozen."""
    model = open_model(pipeline)
    with frozen(model.denoiser.double()):
        try:
            yield model
        finally:
            model.denoiser.float()


def gradient(weights: LowRank, predicted: Tensor) -> Tensor:
    """The gradient of all factors as one vector."""
    weights.zero_grad()
    predicted.square().mean().backward()
    return torch.cat([one.grad.flatten() for one in weights.parameters() if one.grad is not None])


@pytest.mark.parametrize("family", LAYERS)
def test_gradients_are_those_of_dense_weights(tiny: Callable[..., Any], tiny_model_of: TinyModel, family: str) -> None:
    x, t, text = inputs(tiny_model_of(family))
    with in_float64(tiny(family)) as model:
        weights = low_rank(model, LAYERS[family])
        networks = Networks(model, weights)
        expected = model.predict(x, t, Conditions(text), dense(model, weights()))
        of_dense = gradient(weights, expected)
        assert len(of_dense) == sum(one.numel() for one in weights.parameters())
        predicted = networks.student(x, t, text)
        assert relative(predicted.detach(), expected.detach()) < 1e-6
        assert relative(gradient(weights, predicted), of_dense) < 1e-6
        with checkpointed(model.denoiser):
            predicted = networks.student(x, t, text)
            # Calls with other factors, and with none, must not change what runs again.
            Networks(model, low_rank(model, "attention")).student(x, t, text)
            networks.teacher(x, t, text)
            assert relative(gradient(weights, predicted), of_dense) < 1e-6
        assert not any(module._forward_hooks for module in model.denoiser.modules())


class Shapes(TorchDispatchMode):
    """The shapes of all tensors that are made while it is active, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.made |= {tuple(leaf.shape) for leaf in leaves if id(leaf.untyped_storage()) not in given}
        return result


@pytest.mark.parametrize("family", ["sdxl", "z-image"])
def test_no_tensor_of_a_weights_size_is_made(tiny_model_of: TinyModel, family: str) -> None:
    model = tiny_model_of(family)
    weights = low_rank(model, LAYERS[family])
    shapes = {tuple(model.denoiser.get_parameter(name).shape) for name in weights.names}
    x, t, text = inputs(model)
    with frozen(model.denoiser), Shapes() as of_dense:
        gradient(weights, model.predict(x, t, Conditions(text), dense(model, weights())))
    with frozen(model.denoiser), Shapes() as of_factors:
        gradient(weights, model.predict(x, t, Conditions(text), weights()))
    assert shapes <= of_dense.made
    factors = {tuple(one.shape) for one in weights.parameters()}
    assert not (shapes - factors) & of_factors.made


def test_a_call_that_fails_leaves_no_adapter(tiny_model_of: TinyModel) -> None:
    model = tiny_model_of("sdxl")
    x, t, text = inputs(model)
    networks = Networks(model, low_rank(model, "resnet"))
    before = networks.teacher(x, t, text)
    with pytest.raises(RuntimeError):
        networks.student(x, t, text[..., :-1])
    assert not any(module._forward_hooks for module in model.denoiser.modules())
    assert torch.equal(networks.teacher(x, t, text), before)


def test_factors_of_zero_change_no_bit(tiny_model_of: TinyModel) -> None:
    model = tiny_model_of("sana")
    weights = LowRank(model.denoiser, trained_layers(model.denoiser, "transformer"), 2, 1.0, torch.Generator())
    networks, arguments = Networks(model, weights), inputs(model)
    assert torch.equal(networks.student(*arguments), networks.teacher(*arguments))
