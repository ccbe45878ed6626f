"""ESD against its published equations on two networks, its parameter sets on SD 1.4's U-Net, and its settings."""

import copy
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadInput, BadRequest, Model, Request
from efface.methods.trained.denoiser_parameters import trained_parameters
from efface.methods.trained.esd import Esd, EsdConfig
from efface.methods.training.loop import Training
from efface.methods.training.objective import Batch
from efface.methods.training.run import _accelerated
from efface.methods.training.trajectories import Predict, TrajectorySampler
from efface.methods.training.weights import Copies, frozen

COUNTS = {
    "xattn": 80, "noxattn": 598, "selfattn": 80, "full": 686, "notime": 678, "xlayer": 10, "selflayer": 10,
    "esd-x": 80, "esd-x-strict": 32, "esd-u": 388, "esd-all": 468,
}  # fmt: skip
SMALL: dict[str, Any] = {"iterations": 3, "ddim_steps": 5, "reuse": 3}


@pytest.mark.parametrize(("train_method", "count"), COUNTS.items())
def test_parameter_sets_are_the_published_ones_on_sd14(sd14: Any, train_method: Any, count: int) -> None:
    names = trained_parameters(sd14, train_method)
    assert len(names) == len(set(names)) == count


def test_what_the_sets_hold(sd14: Any) -> None:
    every = {name for name, _ in sd14.named_parameters()}
    sets: dict[str, set[str]] = {name: set(trained_parameters(sd14, name)) for name in COUNTS}  # pyright: ignore[reportArgumentType]
    assert sets["full"] == every
    assert sets["xattn"] == sets["esd-x"] == {name for name in every if ".attn2." in name}
    assert sets["selfattn"] == {name for name in every if ".attn1." in name}
    assert {name.split(".transformer")[0] for name in sets["xlayer"]} == {
        "up_blocks.2.attentions.0",
        "up_blocks.2.attentions.2",
    }
    assert {name.split(".transformer")[0] for name in sets["selflayer"]} == {
        "down_blocks.1.attentions.0",
        "down_blocks.2.attentions.0",
    }
    head = {name for name in every if name.startswith(("conv_norm_out", "conv_out", "time_embedding"))}
    assert sets["notime"] == every - head
    assert sets["noxattn"] == every - head - sets["xattn"]
    assert any("time_emb_proj" in name for name in sets["noxattn"])
    assert not any("norm" in name for name in sets["esd-all"])
    assert sets["esd-u"] == sets["esd-all"] - sets["esd-x"]
    assert {"conv_in.weight", "time_embedding.linear_1.bias"} <= sets["esd-u"]
    output = {name for name in every if name.startswith(("conv_norm_out", "conv_out"))}
    assert set(trained_parameters(sd14, "noxattn", mu_quirk=True)) == sets["noxattn"] | output
    assert set(trained_parameters(sd14, "notime", mu_quirk=True)) == sets["notime"] | output
    assert set(trained_parameters(sd14, "xattn", mu_quirk=True)) == sets["xattn"]


def test_a_set_that_the_model_has_not_is_refused(tiny_model: Model) -> None:
    with pytest.raises(BadRequest, match="xlayer"):
        efface.erase(tiny_model, "cat", method="esd", train_method="xlayer")


@contextmanager
def objective(model: Model, concepts: Any = "cat", **options: Any) -> Generator[Esd, None, None]:
    config = EsdConfig(**{**SMALL, **options})
    with frozen(model.denoiser):
        separator = {"separator": config.separator} if config.separator else {}
        yield Esd(model, Request.make(concepts, method="esd", options=separator), config)


VARIANTS: list[dict[str, Any]] = [
    {"preset": "2023"},
    {"preset": "2023", "train_method": "xattn", "negative_guidance": 3.0, "start_guidance": 0.0},
    {"preset": "2023", "compvis_quirk": True, "train_method": "full"},
    {"preset": "2025"},
    {"preset": "2025", "negative_guidance": 1.0, "train_method": "esd-x-strict"},
    {"preset": "2025", "latents": "edited", "train_method": "esd-x"},
    {"preset": "2025", "erase_from": "a house", "train_method": "esd-x"},
    {"preset": "2023", "erase_from": "a house", "train_method": "notime"},
    {"preset": "2025", "erase_from": "", "batch_size": 2, "train_method": "esd-all"},
    {"preset": "2025", "prompt": "image of {}", "start_guidance": 7.5, "sampler": "own"},
    {"preset": "2025", "batch_size": 3, "reuse": 1},
    {"train_method": "selfattn"},
    {"names": ["cat", "dog"], "together": True, "batch_size": 2},
    {"names": ["cat", "dog"], "together": True, "batch_size": 2, "preset": "2023", "erase_from": "a house"},
    {"names": "cat, dog", "separator": ",", "batch_size": 2, "prompt": "image of {}", "train_method": "xattn"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_loss_and_first_step_are_those_of_the_equations(tiny_model: Model, options: dict[str, Any]) -> None:
    """The published step on the same noisy latents: two networks, one forward pass a prompt."""
    first_step(tiny_model, **options)


@pytest.mark.parametrize("train_method", ["xlayer", "selflayer"])
def test_single_layers_are_trained_by_the_same_equations(tiny_sd: Path, tmp_path: Path, train_method: str) -> None:
    """On a U-Net with as many attention blocks as Stable Diffusion's."""
    import diffusers

    kinds: Any = diffusers
    shutil.copytree(tiny_sd, tmp_path / "deep")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = kinds.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 8, 8, 8),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    unet.save_pretrained(tmp_path / "deep" / "unet")
    first_step(efface.open_model(tmp_path / "deep"), train_method=train_method)


def first_step(model: Model, names: Any = "cat", **options: Any) -> None:
    """Loss and weights of a training of one step against those of the equations."""
    with objective(model, names, iterations=1, **options) as ours:
        config, chosen = ours._config, names_of(ours)
        with torch.no_grad():
            batch = ours.batch(0, 0)
        found = ours.loss(batch)["loss"]
        train(model, ours)
    student = copy.deepcopy(model.denoiser).requires_grad_(True)
    before, trained = model.denoiser.state_dict(), dict(student.named_parameters())
    optimizer = torch.optim.Adam([trained[name] for name in chosen], lr=config.lr)
    loss = literal(model.denoiser, student, model, batch, config, words(names, config))
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(found, loss, rtol=1e-5, atol=0)
    stepped = torch.cat([tensor.detach().flatten() for tensor in ours.weights.parameters()])
    expected = torch.cat([trained[name].detach().flatten() for name in chosen])
    assert float((stepped - expected).norm()) <= 1e-5 * float(expected.norm())
    # Adam's first step is the gradient's sign: rounding turns a few around that are next to nothing.
    assert float((expected - torch.cat([before[name].flatten() for name in chosen])).abs().max()) > 0.9 * config.lr
    assert float(((stepped - expected).abs() > 0.1 * config.lr).float().mean()) < 1e-3


def words(names: Any, config: EsdConfig) -> list[str]:
    return [word.strip() for word in names.split(config.separator)] if isinstance(names, str) else names


def names_of(ours: Esd) -> tuple[str, ...]:
    assert isinstance(ours.weights, Copies)
    return ours.weights.names


def train(model: Model, ours: Esd) -> Training:
    with _accelerated(model, ours._config, None) as accelerator:
        training = Training(accelerator, ours)
        training.run()
    return training


def literal(base: Any, student: Any, model: Model, batch: Batch, config: EsdConfig, names: list[str]) -> Tensor:
    """mean | e(x_t, f) - target |^2 as the two codes have it."""
    null = model.embed([""]).tokens
    total = torch.zeros(())
    for x, t, number in zip(batch["x"].split(1), batch["t"].split(1), batch["concept"].tolist(), strict=True):
        concept = model.embed([config.prompt.replace("{}", names[number])]).tokens
        with torch.no_grad():
            e_null = base(x, t, encoder_hidden_states=null).sample
            e_concept = base(x, t, encoder_hidden_states=concept).sample
        read = concept if config.erase_from is None else model.embed([config.erase_from]).tokens
        if config.erase_from is not None:
            with torch.no_grad():
                e_from = base(x, t, encoder_hidden_states=read).sample
            target = e_from - config.negative_guidance * (e_concept - e_null)
        elif config.preset == "2023":  # train-esd.py
            target = e_null - config.negative_guidance * (e_concept - e_null)
        else:  # esd_sd.py, where noise_pred_erase_from is the concept's own
            target = e_concept - config.negative_guidance * (e_concept - e_null)
        predicted = student(x, t, encoder_hidden_states=read).sample
        total = total + torch.nn.functional.mse_loss(predicted, target) / len(batch["x"])
    return total


def test_eta_1_of_2023_is_eta_2_of_2025(tiny_model: Model) -> None:
    shared: dict[str, Any] = {"latents": "frozen", "train_method": "xattn"}
    with objective(tiny_model, preset="2023", negative_guidance=1.0, **shared) as classic:
        old = classic._sample_round(0, 0)
    with objective(tiny_model, preset="2025", negative_guidance=2.0, **shared) as newer:
        new = newer._sample_round(0, 0)
    assert torch.equal(old["x"], new["x"])
    torch.testing.assert_close(old["target"], new["target"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("erase_from", [None, "a house"])
def test_targets_known_from_the_trajectory_are_those_that_the_teacher_gives(
    tiny_model: Model, erase_from: str | None
) -> None:
    with objective(tiny_model, erase_from=erase_from) as ours:
        points = ours._sample_round(0, 0)
        flat = {name: tensor.flatten(0, 1) for name, tensor in points.items()}
        asked = ours._targets(flat, 2)
    torch.testing.assert_close(flat["target"], asked, rtol=1e-4, atol=1e-5)


def test_presets_are_the_published_defaults_and_can_be_changed_one_by_one() -> None:
    new, old = EsdConfig(), EsdConfig(preset=2023)  # pyright: ignore[reportArgumentType]
    assert (new.preset, new.negative_guidance, new.iterations, new.lr, new.latents) == ("2025", 2, 200, 5e-5, "frozen")
    assert (old.preset, old.negative_guidance, old.iterations, old.lr, old.latents) == ("2023", 1, 1000, 1e-5, "edited")
    assert (new.start_guidance, new.ddim_steps) == (old.start_guidance, old.ddim_steps) == (3, 50)
    assert EsdConfig(preset="2023", lr=1e-3).lr == 1e-3
    quirk = {"compvis_quirk": True, "sampler": "own"}
    refused: list[dict[str, Any]] = [{"preset": "2024"}, {"prompt": "a photo"}, {"lr": 0}, quirk]
    for wrong in refused:
        with pytest.raises(BadRequest, match=str(next(iter(wrong)))):
            EsdConfig(**wrong)


@pytest.mark.parametrize(("kind", "preset", "words"), [("style", "2023", "attn2"), ("object", "2025", "conv_in")])
def test_styles_train_cross_attention_and_objects_the_rest(
    tiny_model: Model, kind: str, preset: Any, words: str
) -> None:
    config = EsdConfig(preset=preset, **SMALL)
    with frozen(tiny_model.denoiser):
        names = names_of(Esd(tiny_model, Request.make("cat", kind=kind, method="esd"), config))
    assert any(words in name for name in names)
    assert all("attn2" in name for name in names) == (kind == "style")


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"reuse": 1}], ids=str)
def test_all_concepts_trained_together_get_steps_at_defaults(tiny_model: Model, options: dict[str, Any]) -> None:
    names = [f"cat {number}" for number in range(12)]
    config = EsdConfig.model_validate({"train_method": "xattn", "together": True, **options})
    with frozen(tiny_model.denoiser):
        ours = Esd(tiny_model, Request.make(names, method="esd"), config)
    ours._sampler = Still(**vars(ours._sampler))
    counts = torch.zeros(12)
    for step in range(config.iterations):
        counts += ours.batch(0, step)["concept"].bincount(minlength=12)
    share = config.iterations * config.batch_size / 12
    assert share / 2 <= float(counts.min()) <= float(counts.max()) <= 2 * share


class Still(TrajectorySampler):
    """Samples nothing: what a concept gets is known before."""

    def sample(
        self, predict: Predict, noise: Tensor, texts: Tensor, stops: Tensor, last: bool
    ) -> tuple[Tensor, Tensor]:
        points = noise[:, None].expand(-1, stops.shape[1], -1, -1, -1)
        return points, torch.stack([points, points])


def test_concepts_take_turns_whatever_round_they_are_in(tiny_model: Model) -> None:
    with objective(tiny_model, ["cat", "dog", "golf ball"]) as ours:
        whole = ours._concepts_of(0, 0, 12)
        parts = torch.cat([ours._concepts_of(0, first, 4) for first in (0, 4, 8)])
        assert not torch.equal(ours._concepts_of(1, 0, 12), whole)
    assert torch.equal(parts, whole)
    assert all(sorted(cycle) == [0, 1, 2] for cycle in whole.view(-1, 3).tolist())
    assert len({tuple(cycle) for cycle in whole.view(-1, 3).tolist()}) > 1


def test_several_concepts_are_drawn_where_they_are_trained_together(tiny_model: Model) -> None:
    with objective(tiny_model, ["cat", "dog", "golf ball"], reuse=1, ddim_steps=1) as ours:
        drawn = {int(ours._sample_round(0, number)["concept"]) for number in range(15)}
    assert drawn == {0, 1, 2}
    with objective(tiny_model, "cat, dog,", separator=",") as ours:
        texts = tiny_model.embed(["cat", "dog"]).tokens
        assert torch.equal(ours._concepts, texts)
    with pytest.raises(BadRequest, match="leaves nothing"), objective(tiny_model, ",", separator=","):
        pass


def test_a_concept_trained_with_others_is_what_it_is_alone(tiny_model: Model) -> None:
    options: dict[str, Any] = {**SMALL, "train_method": "xattn", "method": "esd"}
    both = efface.erase(tiny_model, ["cat", "golf ball"], **options)
    alone = efface.erase(tiny_model, "golf ball", **options)
    assert both.only("golf ball").hash == both.without("cat").hash == alone.hash
    assert both.only("golf ball").only("golf ball").hash == alone.hash
    assert [run["steps"] for run in both.provenance["training"]] == [3, 3]


def test_erasers_trained_apart_compose_and_come_apart_again(tiny_model: Model) -> None:
    options: dict[str, Any] = {**SMALL, "train_method": "xattn", "method": "esd"}
    cat, ball = (efface.erase(tiny_model, name, **options) for name in ("cat", "golf ball"))
    composed = efface.compose(cat, ball)
    assert composed.hash == efface.erase(tiny_model, ["cat", "golf ball"], **options).hash
    assert composed.without("cat").hash == ball.hash


def test_concepts_trained_together_cannot_be_split(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, ["cat", "dog"], method="esd", together=True, train_method="xattn", **SMALL)
    assert len({edit.parameter for edit in eraser.edits if isinstance(edit, efface.WeightEdit)}) == len(eraser.edits)
    assert eraser.only("cat", "dog").hash == eraser.hash
    with pytest.raises(BadRequest, match="split"):
        eraser.without("cat")


def test_training_nears_the_target(tiny_model: Model) -> None:
    with objective(tiny_model, iterations=25, reuse=5, lr=1e-3, train_method="xattn") as ours:
        points = {name: tensor.flatten(0, 1) for name, tensor in ours._sample_round(0, 0).items()}
        before = ours.loss(points)["loss"].item()
        train(tiny_model, ours)
        assert ours.loss(points)["loss"].item() < before / 2


def test_image_size_is_that_of_the_latents(tiny_model: Model) -> None:
    with objective(tiny_model, image_size=32) as ours:
        assert ours.batch(0, 0)["x"].shape == (1, 4, 16, 16)
    with objective(tiny_model) as ours:
        assert ours.batch(0, 0)["x"].shape == (1, 4, 8, 8)
    with pytest.raises(BadRequest, match="multiple of 2"), objective(tiny_model, image_size=33):
        pass


def test_the_model_is_left_as_it_was(tiny_model: Model) -> None:
    unet = tiny_model.denoiser.train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}

    def fail(what: str, done: int, total: int, note: str = "") -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        efface.erase(tiny_model, "cat", method="esd", context=efface.RunContext(progress=fail), **SMALL)
    assert unet.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in unet.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


MU = """
train_method: "xattn"
start_guidance: 0.1
negative_guidance: 0.0
iterations: 1
lr: 5e-5
image_size: 16
ddim_steps: 5
model_config_path: "mu/algorithms/esd/configs/model_config.yaml"
ckpt_path: "models/compvis/style50/compvis.ckpt"
dataset_type: "unlearncanvas"
template: "style"
template_name: "line art"
output_dir: "outputs/esd/finetuned_models"
separator: null
devices: "0,0"
use_sample: True
"""


def test_the_configuration_of_mu_loads_as_it_is(tiny_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "train_config.yaml"
    path.write_text(MU)
    with pytest.warns(UserWarning, match="trains without data; not used: dataset_type, use_sample"):
        request = Request.from_yaml(path)
    assert (request.method, request.names, request.concepts[0].kind) == ("esd", ("line art",), "style")
    eraser = efface.erase(tiny_model, request)
    settings = eraser.provenance["settings"]
    assert (settings["lr"], settings["negative_guidance"], settings["train_method"]) == (5e-5, 0, "xattn")
    assert (settings["target"], settings["latents"], settings["prompt"]) == ("null", "edited", "An image of {}.")
    again = tmp_path / "request.yaml"
    request.to_yaml(again)
    assert Request.from_yaml(again) == request


def test_other_files_of_mu_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train_config.yaml"
    path.write_text("template: style\ntemplate_name: line art\ncaption_target: Line Art\n")
    with pytest.raises(BadRequest, match="esd"):
        Request.from_yaml(path)
    path.write_text(MU.replace('"style"', '"weather"'))
    with pytest.raises(BadRequest, match="weather"):
        Request.from_yaml(path)


def test_models_that_cannot_be_trained_are_refused(tiny_sd: Path) -> None:
    half = efface.open_model(tiny_sd, dtype=torch.float16)
    with pytest.raises(BadInput, match="float16"):
        efface.erase(half, "cat", method="esd", **SMALL)
