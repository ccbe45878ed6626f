"""Erasing by training from the command line: what is left on disk, and what Ctrl-C leaves."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from efface import Eraser
from efface.methods.training.checkpoints import Checkpoints

QUICK = ("-s", "iterations=4", "-s", "ddim_steps=3", "-s", "reuse=2", "-s", "train_method=xattn", "-s", "lr=1e-3")


def test_a_trained_eraser_and_its_log_are_left(efface, tiny_sd):
    answer = efface("erase", "cat", "--method", "esd", "--model", tiny_sd, *QUICK, "--json").json()
    assert answer["eraser"] == "cat-esd.safetensors"
    assert (answer["method"], answer["kind_of_edit"], answer["certificate"]) == ("esd", "weight", None)
    assert [path.name for path in Path("cat-esd.training").iterdir()] == ["component-0.jsonl"]
    components = efface("inspect", "cat-esd.safetensors", "--json").json()["components"]
    assert [part["concepts"] for part in components] == [["cat"]]
    again = efface("erase", "cat", "--method", "esd", "--model", tiny_sd, *QUICK, "--force", "--seed", 3)
    assert again.code == 0
    assert Eraser.load("cat-esd.safetensors").request.options["seed"] == 3
    assert len(Path("cat-esd.training/component-0.jsonl").read_text().splitlines()) == 4


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(efface, tiny_sd, monkeypatch: pytest.MonkeyPatch):
    command = ("erase", "cat", "dog", "--method", "esd", "--model", tiny_sd, *QUICK)
    assert efface(*command, "-o", "whole.safetensors").code == 0
    log, rows = Checkpoints.log, list[Any]()

    def interrupting(self: Checkpoints, row: Any) -> None:
        log(self, row)
        rows.append(row["step"])
        if len(rows) in (2, 7):  # in the first concept, and in the second
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "log", interrupting)
    for _ in range(2):
        ended = efface(*command, "-o", "parts.safetensors")
        assert ended.code == 130
        assert ended.err.endswith("efface: interrupted; the same command with the same output continues the work\n")
        assert "Traceback" not in ended.err
        assert not Path("parts.safetensors").exists()
    other = efface(*command, "-o", "parts.safetensors", "-s", "seed=1")
    assert other.code == 2
    assert "--force" in other.err
    assert efface(*command, "-o", "parts.safetensors").code == 0
    assert rows == [1, 2, 3, 4, 1, 2, 3, 4]
    assert Eraser.load("parts.safetensors").hash == Eraser.load("whole.safetensors").hash
    assert sorted(path.name for path in Path("parts.training").iterdir()) == ["component-0.jsonl", "component-1.jsonl"]
    lines = Path("parts.training/component-1.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_a_learning_rate_that_diverges_is_bad_input(efface, tiny_sd):
    ended = efface("erase", "cat", "--method", "esd", "--model", tiny_sd, *QUICK[:-1], "lr=1e25")
    assert ended.code == 2
    assert "diverged" in ended.err
    assert ended.err.count("\n") == 1
    assert not Path("cat-esd.safetensors").exists()


def test_what_a_diverged_training_was_before_can_be_evaluated(efface, tiny_sd, judges):
    settings = (*QUICK[2:-1], "lr=1e3", "-s", "iterations=40")
    ended = efface("erase", "cat", "--method", "esd", "--model", tiny_sd, *settings)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    stored = ended.err.rpartition(" finite, is ")[2].strip().removesuffix(".")
    assert Path(stored).parent == Path("cat-esd.training")
    how = ("--judge", "sure", "--model", tiny_sd, "-n", 2, "--steps", 1, "-o", "out")
    step = Path(stored).stem.removeprefix("component-0-")
    assert list(efface("evaluate", "cat-esd.training", *how, "--json").json()["erasers"]) == ["base", step]


def test_the_configuration_of_mu_with_overrides(efface, tiny_sd):
    Path("train_config.yaml").write_text(
        "train_method: xattn\nstart_guidance: 0.1\nnegative_guidance: 0.0\niterations: 1\nlr: 5e-5\nimage_size: 512\n"
        "ddim_steps: 50\nckpt_path: /models/compvis.ckpt\ndataset_type: unlearncanvas\ntemplate: style\n"
        "template_name: line art\noutput_dir: outputs\nseparator: null\ndevices: '0,0'\nuse_sample: True\n"
    )
    settings = ("-s", "iterations=2", "-s", "negative_guidance=1", "-s", "image_size=16", "-s", "ddim_steps=3")
    ended = efface("erase", "--config", "train_config.yaml", "--model", tiny_sd, "--device", "cpu", *settings, "--json")
    assert ended.json()["eraser"] == "outputs/line-art-esd.safetensors"
    assert "not used: dataset_type, use_sample" in ended.err
    settings = Eraser.load("outputs/line-art-esd.safetensors").provenance["settings"]
    assert (settings["iterations"], settings["negative_guidance"], settings["lr"]) == (2, 1, 5e-5)


def test_a_type_alone_leaves_the_device_of_mus_configuration(refused, tiny_sd):
    Path("train_config.yaml").write_text(
        "train_method: xattn\nnegative_guidance: 1\ntemplate_name: cat\ndevices: '7'\n"
    )
    command = ("erase", "--config", "train_config.yaml", "--model", tiny_sd)
    assert "'cuda:7'" in refused(*command)
    assert "'cuda:7'" in refused(*command, "--dtype", "bf16")


@pytest.mark.parametrize(
    ("setting", "printed"),
    [
        ("train_method=esd-a", "train_method"),
        ("train_method=xlayer", "xlayer"),
        ("image_size=33", "image_size"),
        ("iterations=0", "iterations"),
        ("preset=2024", "preset"),
        ("report_to=trackio", "pip install trackio"),
        ("erase_from=" + "cat " * 40, "at most"),
    ],
)
def test_settings_that_cannot_be_trained_with(refused, tiny_sd, setting, printed):
    assert printed in refused("erase", "cat", "--method", "esd", "-s", setting, "--model", tiny_sd)


@pytest.mark.parametrize("method", ["cie", "sepce"])
def test_compose_gives_a_trained_concept_back_to_the_bit(efface, tiny_sd, method):
    settings = [word for key in ("iter_break=2", "images=2", "sampling_steps=2") for word in ("-s", key)]
    command = ("--method", method, "--model", tiny_sd, *settings, "-o", "both.safetensors")
    assert efface("erase", "cat", "dog", *command).code == 0
    assert efface("compose", "both.safetensors", "--without", "cat", "-o", "rest.safetensors").code == 0
    both, rest = Eraser.load("both.safetensors"), Eraser.load("rest.safetensors")
    stored = [edit for edit, owner in zip(both.edits, both.inputs["owner"], strict=True) if owner == 1]
    assert (rest.concepts, len(rest.edits)) == (("dog",), len(stored))
    for edit, other in zip(rest.edits, stored, strict=True):
        assert edit.tensors().keys() == other.tensors().keys()
        assert all(tensor.equal(other.tensors()[name]) for name, tensor in edit.tensors().items())
    assert not Path("both.training/component-0.checkpoint.safetensors").exists()


class Spread(torch.nn.Module):
    """Descriptors in which a picture of one colour is like no other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.std((2, 3))


def test_a_memorised_picture_needs_itself_and_a_detector_that_may_run(efface, refused, tiny_sd):
    Image.new("RGB", (16, 16), (250, 250, 250)).save("star.png")
    program: Any = torch.jit.trace(Spread(), torch.zeros(1, 3, 8, 8))
    program.save("sscd.torchscript.pt")
    command = ("erase", "the star", "--kind", "memorization", "--method", "ablate", "--model", tiny_sd)
    assert "mem_impath=FILE" in refused(*command)
    command += ("-s", "mem_impath=star.png")
    assert "--judge sscd:FILE" in refused(*command)
    command += ("--judge", "sscd:sscd.torchscript.pt")
    assert "--trust-torchscript" in refused(*command)
    moment = ("-s", "train_max_steps=1", "-s", "batch_size=1", "-s", "sampling_steps=1", "--trust-torchscript")
    assert efface(*command, *moment, "--json").json()["eraser"] == "the-star-ablate.safetensors"
    assert "ablate to find copies" in refused("erase", "cat", "--to", "dog", "--judge", "sure", "--method", "ablate")
