"""LoRA against the published equations in float64, the layers of SD 1.4's U-Net, presets, strength and files."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import efface
from efface import BadRequest, Model, Request, RunContext, WeightEdit
from efface.methods.trained.lora.config import LoraConfig
from efface.methods.trained.lora.layers import Network, TrainingMethod, trained_layers
from efface.methods.trained.lora.method import Lora
from efface.methods.training.checkpoints import Checkpoints
from efface.methods.training.low_rank import LowRank
from efface.methods.training.objective import seeded
from efface.methods.training.weights import frozen
from efface.request.record import Concept
from support import low_rank_changes, parameters, relative, same

SMALL: dict[str, Any] = {"iterations": 3, "max_denoising_steps": 5, "reuse": 3, "lr": 1e-3, "rank": 2}
SLIDER: dict[str, Any] = {"preset": "slider", "positive": "{} red", "unconditional": "{} blue", "network": "attention"}


@pytest.mark.parametrize(
    ("network", "training_method", "count"),
    [
        ("transformer", "full", 192), ("attention", "full", 128), ("attention", "xattn", 64),
        ("attention", "selfattn", 64), ("attention", "xattn-strict", 32), ("resnet", "noxattn", 150),
    ],
)  # fmt: skip
def test_layers_are_those_of_the_published_code_on_sd14(
    sd14: Any, network: Any, training_method: Any, count: int
) -> None:
    names = trained_layers(sd14, network, training_method)
    assert len(names) == len(set(names)) == count
    assert all(isinstance(sd14.get_submodule(name), nn.Linear | nn.Conv2d) for name in names)


def test_factors_have_the_published_number_of_parameters(sd14: Any) -> None:
    """1.70 M for LECO, 2.91 M for a slider without cross-attention, 0.40 M with cross-attention alone, at rank 4."""
    sets: tuple[tuple[Network, TrainingMethod, float], ...] = (
        ("transformer", "full", 1.70), ("resnet", "noxattn", 2.91), ("attention", "xattn", 0.398),
    )  # fmt: skip
    for network, method, millions in sets:
        layers = [sd14.get_submodule(name) for name in trained_layers(sd14, network, method)]
        sides = [(len(layer.weight), math.prod(layer.weight.shape[1:])) for layer in layers]
        assert sum(4 * (rows + columns) for rows, columns in sides) / 1e6 == pytest.approx(millions, abs=0.006)


def test_presets_are_the_published_defaults_and_can_be_changed_one_by_one() -> None:
    leco, slider, esd = LoraConfig(), LoraConfig(preset="slider"), LoraConfig(preset="esd")
    assert (leco.rank, leco.alpha, leco.lr, leco.iterations, leco.guidance_scale) == (4, 1, 1e-4, 500, 1)
    assert (slider.rank, slider.alpha, slider.lr, slider.iterations, slider.guidance_scale) == (4, 1, 2e-4, 1000, 4)
    assert (esd.iterations, esd.guidance_scale, esd.latents, esd.weight_decay) == (200, 2, "frozen", 0)
    assert leco.max_denoising_steps == slider.max_denoising_steps == 50
    assert leco.latents == slider.latents == "edited"
    assert LoraConfig(preset="slider", lr=1.0).lr == 1
    wrong: list[dict[str, Any]] = [{"preset": "2023"}, {"rank": 0}, {"alpha": 0}, {"action": "hide"}]
    for one in wrong:
        with pytest.raises(BadRequest, match=next(iter(one))):
            LoraConfig.model_validate(one)


def test_prompts_are_those_of_the_presets_of_the_guide_and_of_each_attribute() -> None:
    cat, guided = Concept(name="cat"), Concept(name="cat", guide="dog")
    (leco,), (esd,), (towards,) = (
        config.prompts(concept)
        for config, concept in ((LoraConfig(), cat), (LoraConfig(preset="esd"), cat), (LoraConfig(), guided))
    )
    assert (leco.target, leco.positive, leco.unconditional, leco.neutral) == ("cat", "cat", "", "")
    assert (esd.neutral, towards.neutral) == ("cat", "dog")
    config = LoraConfig.model_validate({**SLIDER, "target": "photo of {}", "attributes": "red, blue"})
    one, two = config.prompts(cat)
    assert (one.target, one.positive, one.unconditional, one.neutral) == (
        "red photo of cat", "red cat red", "red cat blue", "red photo of cat",
    )  # fmt: skip
    assert two.positive == "blue cat red"


VARIANTS: list[dict[str, Any]] = [
    {},
    {"preset": "slider"},
    {"preset": "esd"},
    {"preset": "esd", "batch_size": 2, "guide": "dog", "alpha": 1.0},
    {**SLIDER, "action": "enhance", "attributes": "red,blue", "batch_size": 3},
    {"latents": "frozen", "neutral": "a house", "network": "resnet"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_loss_and_a_step_are_those_of_the_equations_in_float64(tiny_model: Model, options: dict[str, Any]) -> None:
    """The published form, two extra layers beside each layer, on a second network."""
    chosen: dict[str, Any] = {**SMALL, **options, "iterations": 1}
    guide = chosen.pop("guide", None)
    config = LoraConfig.model_validate(chosen)
    request = Request.make("cat", guide or (), method="lora")
    with frozen(tiny_model.denoiser):
        ours = Lora(tiny_model, request, config)
        weights = ours.weights
        assert isinstance(weights, LowRank)
        random = torch.Generator().manual_seed(0)
        for up in weights.up:  # else the gradient of `down` is zero
            up.data.normal_(0, up.shape[1] / config.alpha, generator=random)
        with torch.no_grad():
            batch = ours.batch(0, 0)
        started = {name: tensor.detach().double().clone() for name, tensor in weights.named_parameters()}
        loss, optimizer = ours.loss(batch)["loss"], ours.optimizer()
        loss.backward()
        gradients = {name: one.grad.clone() for name, one in weights.named_parameters() if one.grad is not None}
        optimizer.step()
    expected, of_equations = literal(tiny_model, weights, started, batch, config, request.concepts[0])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    found, literal_ones = (torch.cat([one[name].flatten() for name in gradients]) for one in (gradients, of_equations))
    assert len(gradients) == len(started)
    assert relative(found.double(), literal_ones) < 1e-5
    # AdamW's first step in float64: the decay, then lr g / (|g| + eps).
    for name, tensor in weights.named_parameters():
        gradient = of_equations[name]
        stepped = started[name] * (1 - config.lr * config.weight_decay) - config.lr * gradient / (gradient.abs() + 1e-8)
        certain = gradient.abs() > 1e-4 * gradient.abs().max()  # rounding turns the sign of the smallest around
        assert relative(tensor.detach().double()[certain], stepped[certain]) < 1e-5


def literal(
    model: Model, weights: LowRank, factors: dict[str, Tensor], batch: Any, config: LoraConfig, concept: Concept
) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradients of the factors; frozen predictions have the factors switched off."""
    network: Any = copy.deepcopy(model.denoiser).double().requires_grad_(False)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in factors.items()}
    switch = {"on": False}
    for index, name in enumerate(weights.names):
        layer = network.get_submodule(name.removesuffix(".weight"))
        down, up = leaves[f"down.{index}"], leaves[f"up.{index}"]
        layer.register_forward_hook(beside(layer, down, up, config.alpha / len(down), switch))
    sets, total = config.prompts(concept), torch.zeros((), dtype=torch.float64)
    sign = -1 if config.action == "erase" else 1
    for x, t, number in zip(batch["x"].split(1), batch["t"].split(1), batch["set"].tolist(), strict=True):

        def predicted(prompt: str, x: Tensor = x, t: Tensor = t) -> Tensor:
            text = model.embed([prompt]).tokens.double()
            return network(x.double(), t, encoder_hidden_states=text).sample

        prompts, switch["on"] = sets[number], False
        target = predicted(prompts.neutral) + sign * config.guidance_scale * (
            predicted(prompts.positive) - predicted(prompts.unconditional)
        )
        switch["on"] = True
        total = total + (predicted(prompts.target) - target).square().mean() / len(batch["x"])
    total.backward()
    return total.item(), {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def beside(layer: Any, down: Tensor, up: Tensor, scale: float, switch: dict[str, bool]) -> Any:
    """A hook that adds the output of two layers of low rank."""

    def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not switch["on"]:
            return output
        if isinstance(layer, nn.Linear):
            return output + scale * (inputs[0] @ down.T) @ up.T
        kernel = down.view(len(down), *layer.weight.shape[1:])
        between = nn.functional.conv2d(inputs[0], kernel, stride=layer.stride, padding=layer.padding)
        return output + scale * nn.functional.conv2d(between, up[:, :, None, None])

    return hook


def test_the_first_values_are_those_of_kaiming_and_zero(tiny_model: Model) -> None:
    layers = trained_layers(tiny_model.denoiser, "resnet")
    weights = LowRank(tiny_model.denoiser, layers, 100, 1.0, seeded(0))
    base = tiny_model.denoiser.state_dict()
    for name, down, up in zip(weights.names, weights.down, weights.up, strict=True):
        bound = 1 / math.sqrt(math.prod(base[name].shape[1:]))
        assert 0.8 * bound < float(down.abs().max()) <= bound
        assert not up.any()
        assert len(down) == min(100, *base[name].shape[:2])


@pytest.fixture(scope="module")
def eraser(tiny_sd: Path) -> efface.Eraser:
    options: dict[str, Any] = {**SMALL, "lr": 1e-2, "network": "resnet"}
    return efface.erase(tiny_sd, "cat", method="lora", **options)


def test_an_edit_has_the_rank_and_the_strength_is_linear_in_both_directions(
    eraser: efface.Eraser, tiny_model: Model
) -> None:
    before, changes = parameters(tiny_model.denoiser), low_rank_changes(eraser)
    for edit in eraser.edits:
        assert isinstance(edit, WeightEdit)
        assert edit.rank <= 2
    assert any(tensor.ndim == 4 and tensor.shape[-1] == 3 for name, tensor in before.items() if name in changes)
    with eraser.attach(tiny_model) as attachment:
        for strength in (1.0, -1.0, 0.5, 2.0, -3.0):
            attachment.set(strength)
            after = parameters(tiny_model.denoiser)
            for name, change in changes.items():
                moved = after[name].double() - before[name].double()
                assert (moved - strength * change.double().view(moved.shape)).abs().max() < 1e-6
    assert same(parameters(tiny_model.denoiser), before)


def test_concepts_are_separable_and_compose(tiny_model: Model) -> None:
    both = efface.erase(tiny_model, ["cat", "golf ball"], method="lora", **SMALL)
    ball = efface.erase(tiny_model, "golf ball", method="lora", **SMALL)
    assert both.without("cat").hash == ball.hash
    assert efface.compose(both.only("cat"), ball).hash == both.hash


@pytest.mark.parametrize("format", ["lora", "kohya"])
def test_its_exports_are_exact_and_are_read_again(
    eraser: efface.Eraser, tiny_sd: Path, tmp_path: Path, format: str
) -> None:
    path = tmp_path / "cat.safetensors"
    exported = efface.export(eraser, format, model=tiny_sd, path=path)
    assert (exported.rank, exported.error) == (2, 0)
    again = efface.import_eraser(path, tiny_sd, "cat")
    expected, found = low_rank_changes(eraser), low_rank_changes(again)
    assert found.keys() == expected.keys()
    for name, change in found.items():
        torch.testing.assert_close(change, expected[name], rtol=1e-6, atol=1e-9)


def test_a_killed_training_ends_as_one_that_was_not(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "seconds", 0.0)
    monkeypatch.setattr(Checkpoints, "share", 0.0)
    options: dict[str, Any] = {**SMALL, **SLIDER, "iterations": 5, "reuse": 2, "attributes": "red,blue"}

    def stop(what: str, done: int, total: int, note: str = "") -> None:
        if done == 3:
            raise RuntimeError("stop")

    whole = efface.erase(tiny_model, "cat", method="lora", **options)
    with pytest.raises(RuntimeError, match="stop"):
        efface.erase(tiny_model, "cat", method="lora", context=RunContext(tmp_path, stop), **options)
    resumed = efface.erase(tiny_model, "cat", method="lora", context=RunContext(tmp_path), **options)
    assert resumed.hash == whole.hash


def test_training_nears_the_target(tiny_model: Model) -> None:
    options: dict[str, Any] = {**SMALL, "iterations": 25, "preset": "esd", "reuse": 5, "rank": 8, "alpha": 8}
    config = LoraConfig.model_validate({**options, "lr": 1e-2})
    with frozen(tiny_model.denoiser):
        ours = Lora(tiny_model, Request.make("cat", method="lora"), config)
        batches = [ours.batch(0, step) for step in range(5)]
        optimizer, before = ours.optimizer(), sum(ours.loss(batch)["loss"].item() for batch in batches)
        for _ in range(8):
            for batch in batches:
                optimizer.zero_grad()
                ours.loss(batch)["loss"].backward()
                optimizer.step()
        assert sum(ours.loss(batch)["loss"].item() for batch in batches) < before / 2
