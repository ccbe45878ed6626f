"""ESD as packaged in `mu`: its configuration file and its options, with the effect that its documentation states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from command_line import Efface
from efface import Eraser, WeightEdit

QUICK = {"iterations": 2, "ddim_steps": 3, "image_size": 16, "lr": 5e-3}


@pytest.fixture
def config(tiny_sd: Path) -> Callable[..., Path]:
    """Writes the train_config.yaml of mu's documentation, for the tiny model, with changes; None leaves a key out."""

    def write(**changes: object) -> Path:
        content: dict[str, object] = {
            "train_method": "xattn", "start_guidance": 0.1, "negative_guidance": 1.0, **QUICK,
            "model_config_path": None, "ckpt_path": str(tiny_sd), "dataset_type": "unlearncanvas",
            "template": "style", "template_name": "line art", "output_dir": "outputs/esd/finetuned_models",
            "separator": None, "devices": "cpu", "use_sample": True, **changes,
        }  # fmt: skip
        path = Path("train_config.yaml")
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return path

    return write


def settings_of(path: Path | str) -> dict[str, object]:
    return Eraser.load(path).provenance["settings"]


def changed(path: Path | str) -> set[str]:
    """The parameters that an eraser changes."""
    return {getattr(edit, "parameter", "") for edit in Eraser.load(path).edits}


def test_e1_the_model_and_folder_of_the_configuration(efface: Efface, config: Callable[..., Path], tiny_sd: Path):
    ended = efface("erase", "--config", config(), "--json")
    path = Path("outputs/esd/finetuned_models/line-art-esd.safetensors")
    assert ended.json()["eraser"] == str(path)
    assert Eraser.load(path).base.model == tiny_sd.name
    assert Eraser.load(path).request.concepts[0].kind == "style"


def test_e1_options_override_the_configuration(efface: Efface, config: Callable[..., Path], other_sd: Path):
    file = config(ckpt_path="/nowhere/sd.ckpt", devices="7")
    ended = efface("erase", "--config", file, "--model", other_sd, "--device", "cpu", "-o", "x.safetensors")
    assert ended.code == 0, ended
    assert Eraser.load("x.safetensors").base.model == other_sd.name
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ckpt_path": "/nowhere/sd.ckpt"},
            "/nowhere/sd.ckpt, which does not exist; correct it or give --model",
        ),
        ({"ckpt_path": "nowhere"}, "Unknown model 'nowhere'"),
        ({"ckpt_path": None}, "names no model; add ckpt_path, or give --model"),
        ({"ckpt_path": 3}, "'ckpt_path' in train_config.yaml is 3"),
        ({"devices": "0,1"}, "'cuda:0' is not available on this machine; use --device"),
        ({"devices": "fast"}, "Unknown device 'fast'"),
        ({"devices": [0, 1]}, "write numbers of GPUs"),
        ({"model_config_path": "nowhere.yaml"}, "Cannot read the model's configuration from nowhere.yaml"),
        ({"output_dir": "train_config.yaml"}, "folder train_config.yaml"),
    ],
)
def test_e1_a_configuration_that_cannot_be_used(
    refused: Callable[..., str], config: Callable[..., Path], changes: dict[str, object], message: str
):
    assert message in refused("erase", "--config", config(dataset_type=None, use_sample=None, **changes))


def test_e1_the_architecture_is_compared_with_the_model(
    efface: Efface, refused: Callable[..., str], config: Callable[..., Path]
):
    def architecture(context_dim: int) -> None:
        unet = {"in_channels": 4, "model_channels": 16, "num_res_blocks": 1, "context_dim": context_dim}
        params = {"timesteps": 1000, "unet_config": {"params": unet}}
        Path("model_config.yaml").write_text(yaml.safe_dump({"model": {"params": params}}))

    architecture(768)
    file = config(model_config_path="model_config.yaml", dataset_type=None, use_sample=None)
    assert "context_dim is 768 there, and 32 in" in refused("erase", "--config", file)
    architecture(32)
    assert efface("erase", "--config", file).code == 0
    Path("model_config.yaml").write_text("model:\n  par")
    assert "describes no model" in refused("erase", "--config", file, "--force")


@pytest.mark.parametrize(
    ("method", "inside", "outside"),
    [
        ("noxattn", "attn1", "attn2"),
        ("selfattn", "attn1", "attn2"),
        ("xattn", "attn2", "attn1"),
        ("full", "attn2", None),
        ("notime", "attn2", "time_embedding"),
        ("xlayer", "attn2", "attn1"),
        ("selflayer", "attn1", "attn2"),
    ],
)
def test_e2_train_methods_change_their_parameters(
    efface: Efface, config: Callable[..., Path], method: str, inside: str, outside: str | None
):
    ended = efface("erase", "--config", config(train_method=method), "-o", "x.safetensors")
    if method.endswith("layer"):  # these name layers that only the U-Net of Stable Diffusion 1 and 2 has
        assert ended.code == 2
        assert method in ended.err
        return
    assert ended.code == 0, ended
    names = changed("x.safetensors")
    assert any(inside in name for name in names)
    assert outside is None or not any(outside in name for name in names)


def test_e3_settings_override_the_configuration(efface: Efface, config: Callable[..., Path]):
    settings = ("-s", "iterations=3", "-s", "lr=1e-3", "-s", "train_method=selfattn", "-s", "start_guidance=2")
    assert efface("erase", "--config", config(), *settings, "-o", "x.safetensors").code == 0
    values = settings_of("x.safetensors")
    assert (values["iterations"], values["lr"], values["start_guidance"]) == (3, 1e-3, 2.0)
    assert len(Path("x.training/component-0.jsonl").read_text().splitlines()) == 3
    assert all("attn1" in name for name in changed("x.safetensors"))


@pytest.mark.parametrize(("template", "kind"), [("object", "object"), ("style", "style"), ("i2p", "unsafe")])
def test_e4_the_template_is_the_kind_and_unused_options_are_reported_once(
    efface: Efface, config: Callable[..., Path], template: str, kind: str
):
    ended = efface("erase", "--config", config(template=template, template_name="boat"), "-o", "x.safetensors")
    assert ended.err.count("not used: dataset_type, use_sample") == 1
    (concept,) = Eraser.load("x.safetensors").request.concepts
    assert (concept.name, concept.kind) == ("boat", kind)


def test_e5_the_separator_splits_the_concept_into_prompts(efface: Efface, config: Callable[..., Path]):
    for name, separator in (("split", ","), ("whole", None)):
        file = config(template="object", template_name="cat, dog", separator=separator, iterations=4)
        assert efface("erase", "--config", file, "-o", f"{name}.safetensors").code == 0
    assert settings_of("split.safetensors")["separator"] == ","
    split, whole = (Eraser.load(f"{name}.safetensors") for name in ("split", "whole"))
    assert split.concepts == whole.concepts == ("cat, dog",)
    assert split.hash != whole.hash
    rows = [json.loads(line) for line in Path("split.training/component-0.jsonl").read_text().splitlines()]
    assert len(rows) == 4


@pytest.mark.parametrize("separator", [",", "|", "-", "&"])
def test_e5_a_separator_on_the_command_line(efface: Efface, tiny_sd: Path, separator: str):
    quick = ("-s", "iterations=2", "-s", "ddim_steps=3", "-s", "image_size=16", "--model", tiny_sd)
    command = ("erase", f"cat{separator}dog", "--method", "esd", "-s", "preset=2023", *quick, "-o", "x.safetensors")
    assert efface(*command, "-s", f"separator={separator}").code == 0
    assert settings_of("x.safetensors")["separator"] == separator


def test_e6_wandb_logs_offline(efface: Efface, config: Callable[..., Path], wandb_offline: Callable[[], None]):
    assert efface("erase", "--config", config(iterations=3), "--report-to", "wandb", "-o", "x.safetensors").code == 0
    wandb_offline()
    (log,) = Path("wandb").glob("offline-run-*/*.wandb")
    content = log.read_bytes()
    assert b"line art/loss" in content
    assert content.count(b"_step") >= 3


@pytest.mark.slow
def test_e10_two_processes_have_the_loss_of_one_with_twice_the_batch(
    efface: Efface, config: Callable[..., Path], accelerate: Callable[..., None]
):
    command = ("erase", "--config", config(iterations=3))
    accelerate(*command, "-o", "two.safetensors")
    assert efface(*command, "-s", "gradient_accumulation_steps=2", "-o", "twice.safetensors").code == 0
    assert efface(*command, "-o", "one.safetensors").code == 0
    losses = {
        name: [json.loads(line)["loss"] for line in Path(f"{name}.training/component-0.jsonl").read_text().splitlines()]
        for name in ("two", "twice", "one")
    }
    assert len(losses["two"]) == 3
    assert losses["two"] == pytest.approx(losses["twice"], rel=1e-4)
    assert losses["two"] != pytest.approx(losses["one"], rel=1e-2)
    changes = [
        {
            edit.parameter: edit.delta
            for edit in Eraser.load(f"{name}.safetensors").edits
            if isinstance(edit, WeightEdit)
        }
        for name in ("two", "twice")
    ]
    for name, change in changes[1].items():
        assert change is not None
        other = changes[0][name]
        assert other is not None
        assert float((change - other).norm()) < 1e-2 * float(change.norm())


def test_e9_a_concept_is_erased_at_the_default_settings(forgets_at_defaults: Callable[..., None]):
    forgets_at_defaults("esd")
