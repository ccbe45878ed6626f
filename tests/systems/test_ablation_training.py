"""The training of Concept Ablation: its checkpoints, its start from other checkpoints, and its images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import Efface
from efface import Eraser, Model, WeightEdit
from efface.generation import Job, Sampling, sample
from efface.methods.trained.ablate.method import Ablate
from efface.methods.training.objective import Batch
from efface.models.storage import compvis

QUICK = (
    *("--method", "ablate", "-s", "train_max_steps=4", "-s", "train_size=3", "-s", "sampling_steps=2"),
    *("-s", "batch_size=2"),
)
FAST, STILL = ("-s", "base_lr=1e-3"), ("-s", "base_lr=1e-30", "-s", "scale_lr=false")
READERS = ("attn2.to_k", "attn2.to_v")


@pytest.fixture
def command(tiny_sd: Path) -> tuple[object, ...]:
    return ("erase", "cat", "--to", "dog", "--model", tiny_sd, *QUICK)


def changes(path: str) -> dict[str, torch.Tensor]:
    edits = [edit for edit in Eraser.load(path).edits if isinstance(edit, WeightEdit)]
    return {edit.parameter: edit.delta for edit in edits if edit.delta is not None}


def delta(model: Model, path: str, pieces: tuple[str, ...] = READERS) -> dict[str, torch.Tensor]:
    """Write an ablated model as its authors publish it, and return its changes."""
    config = model.denoiser.config
    state = {name: tensor.clone() for name, tensor in model.weights("denoiser") if any(p in name for p in pieces)}
    generator = torch.Generator().manual_seed(0)
    change = {name: 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    named = {compvis.DENOISER + compvis.unet_name(name, config): state[name] + change[name] for name in state}
    torch.save({"state_dict": named}, path)
    return {f"denoiser.{name}": tensor for name, tensor in change.items()}


def test_a5_checkpoints_are_written_every_100_steps_as_published(efface: Efface, command: tuple[object, ...]):
    assert efface(*command, "-s", "save_freq=2", "-o", "own.safetensors").code == 0
    assert sorted(path.name for path in Path("own.training").glob("*.safetensors")) == [
        "component-0-step-2.safetensors",
        "component-0-step-4.safetensors",
    ]
    assert efface(*command, "-s", "preset=published", "-o", "x.safetensors", "--force").code == 0
    assert Eraser.load("x.safetensors").provenance["settings"]["save_freq"] == 100
    assert efface(*command, "-s", "preset=published", "-s", "save_freq=3", "-o", "y.safetensors").code == 0
    assert [path.name for path in Path("y.training").glob("*step*")] == ["component-0-step-3.safetensors"]


@pytest.mark.parametrize("kind", ["eraser", "delta"])
def test_a5_a_training_starts_from_an_ablated_checkpoint(
    efface: Efface, command: tuple[object, ...], tiny_model: Model, kind: str
):
    if kind == "eraser":
        assert efface(*command, *FAST, "-o", "start.safetensors").code == 0
        file, start = "start.safetensors", changes("start.safetensors")
    else:
        file, start = "start.ckpt", delta(tiny_model, "start.ckpt")
    resume = ("-s", f"resume_from_checkpoint_custom={file}")
    assert efface(*command, *STILL, *resume, "-o", "same.safetensors").code == 0
    assert efface(*command, *FAST, *resume, "-o", "further.safetensors").code == 0
    same, further = changes("same.safetensors"), changes("further.safetensors")
    assert same.keys() == start.keys()
    assert all(torch.allclose(same[name], start[name], atol=1e-6) for name in start)
    assert any((further[name] - start[name]).abs().max() > 1e-3 for name in start)


def test_a5_the_model_itself_is_no_change(efface: Efface, command: tuple[object, ...], tiny_model: Model):
    torch.save(dict(tiny_model.weights("denoiser")), "sd.ckpt")
    resume = ("-s", "resume_from_checkpoint_custom=sd.ckpt")
    assert efface(*command, *FAST, *resume, "-o", "x.safetensors").code == 0
    assert efface(*command, *FAST, "-o", "y.safetensors").code == 0
    one, other = changes("x.safetensors"), changes("y.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a5_the_rows_of_an_embedding_table_are_a_start_too(efface: Efface, command: tuple[object, ...]):
    rows = (*command, "-s", "parameter_group=embedding")
    assert efface(*rows, *FAST, "-o", "start.safetensors").code == 0
    resume = ("-s", "resume_from_checkpoint_custom=start.safetensors")
    assert efface(*rows, *STILL, *resume, "-o", "same.safetensors").code == 0
    (start,), (same,) = (Eraser.load(path).edits for path in ("start.safetensors", "same.safetensors"))
    assert isinstance(start, WeightEdit)
    assert isinstance(same, WeightEdit)
    assert start.down is not None
    assert same.down is not None
    assert torch.allclose(start.down, same.down, atol=1e-6)
    assert start.down.abs().max() > 1e-3


def test_a5_files_that_are_no_start(
    refused: Callable[..., str], efface: Efface, command: tuple[object, ...], tiny_model: Model, tiny_sd: Path
):
    delta(tiny_model, "delta.ckpt")
    delta(tiny_model, "full.ckpt", ("attn2.to_k", "conv_in"))
    Path("short.ckpt").write_bytes(Path("delta.ckpt").read_bytes()[:500])
    assert efface("erase", "cat", "--to", "dog", "--model", tiny_sd, "-o", "text.safetensors").code == 0
    start = "resume_from_checkpoint_custom"
    for file, reason in (
        ("missing.ckpt", "missing.ckpt"),
        ("short.ckpt", "short.ckpt"),
        ("text.safetensors", "it changes more than weights"),
    ):
        assert reason in refused(*command, "-s", f"{start}={file}", "-o", "x.safetensors")
    ended = efface(*command, "-s", f"{start}=full.ckpt", "-o", "x.safetensors")
    assert ended.code == 2
    assert "it changes denoiser.conv_in.weight, which parameter_group=cross-attn does not train" in ended.err
    several = ("erase", "cat", "car", "--to", "dog", "--model", tiny_sd, *QUICK, "-s", f"{start}=delta.ckpt")
    assert "one by one" in refused(*several, "-o", "x.safetensors")


def test_a5_an_interrupted_training_continues_only_from_the_same_start(
    efface: Efface, command: tuple[object, ...], tiny_model: Model, monkeypatch: pytest.MonkeyPatch
):
    delta(tiny_model, "start.ckpt")
    resume = (*command, *FAST, "-s", "resume_from_checkpoint_custom=start.ckpt")
    assert efface(*resume, "-o", "whole.safetensors").code == 0
    batch = Ablate.batch

    def interrupted(self: Ablate, slot: int, step: int) -> Batch:
        if step == 2:
            raise KeyboardInterrupt
        return batch(self, slot, step)

    with monkeypatch.context() as patch:
        patch.setattr(Ablate, "batch", interrupted)
        assert efface(*resume, "-o", "x.safetensors").code == 130
    shutil.move("start.ckpt", "first.ckpt")
    state = torch.load("first.ckpt", weights_only=True)["state_dict"]
    torch.save({"state_dict": {name: 1.1 * tensor for name, tensor in state.items()}}, "start.ckpt")
    assert "something else" in efface(*resume, "-o", "x.safetensors").err
    shutil.move("first.ckpt", "start.ckpt")
    assert efface(*resume, "-o", "x.safetensors").code == 0
    one, other = changes("x.safetensors"), changes("whole.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a6_the_generated_images_stay_beside_the_checkpoints_and_are_used_again(
    efface: Efface, command: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert efface(*command, *FAST, "-o", "x.safetensors").code == 0
    folder = Path("x.training/images/cat")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == len(list(folder.glob("*.png"))) == 3
    assert all("dog" in row["prompt"] for row in rows)
    first = changes("x.safetensors")
    # Without the cache, the images of the folder are used, and those that are damaged or altered are generated again.
    shutil.rmtree(tmp_path / "cache")
    picture, other = ((folder / row["file_name"]).read_bytes() for row in rows[:2])
    (folder / rows[0]["file_name"]).write_bytes(picture[:40])
    # A run that was killed left a part of the last line.
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]) + '{"file_na')
    (folder / rows[1]["file_name"]).write_bytes((folder / rows[2]["file_name"]).read_bytes())
    generated: list[int] = []

    def watched(model: Model, jobs: Sequence[Job], how: Sampling) -> Iterator[tuple[int, Any]]:
        generated.append(len(jobs))
        return sample(model, jobs, how)

    monkeypatch.setattr("efface.tools.sample", watched)
    assert efface(*command, *FAST, "-o", "x.safetensors", "--force").code == 0
    assert generated == [3]
    assert [(folder / row["file_name"]).read_bytes() for row in rows[:2]] == [picture, other]
    assert (folder / "metadata.jsonl").read_text().count("\n") == 3
    shutil.rmtree(tmp_path / "cache")
    assert efface(*command, *FAST, "-o", "x.safetensors", "--force").code == 0
    assert generated == [3]
    second = changes("x.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a6_the_images_train_another_eraser(efface: Efface, command: tuple[object, ...]):
    assert efface(*command, *FAST, "-o", "x.safetensors").code == 0
    assert efface(*command, *FAST, "-s", "datapath=x.training/images/cat", "-o", "y.safetensors").code == 0
    one, other = changes("x.safetensors"), changes("y.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a8_generated_images_are_logged(
    efface: Efface, refused: Callable[..., str], tiny_sd: Path, wandb_offline: Callable[[], None]
):
    command = ("generate", "a cat", "-n", 2, "--steps", 1, "--model", tiny_sd, "-o", "samples", "--report-to")
    assert "and not to 'paper'" in refused(*command, "paper")
    assert "leave out" in refused(*command, "wandb", "--grid", "x.png")
    assert efface(*command, "wandb").code == 0
    (run,) = Path("wandb").glob("offline-run-*")
    pictures = sorted(path.read_bytes() for path in run.rglob("*.png"))
    assert pictures == sorted(path.read_bytes() for path in Path("samples").glob("*.png"))
    wandb_offline()
    (log,) = run.glob("*.wandb")
    assert b"a cat" in log.read_bytes()
    assert b"samples" in log.read_bytes()


def test_a8_losses_of_a_training_are_logged(
    efface: Efface, command: tuple[object, ...], wandb_offline: Callable[[], None]
):
    assert efface(*command, *FAST, "--report-to", "wandb", "-o", "star_cat.safetensors").code == 0
    wandb_offline()
    (log,) = Path("wandb").glob("offline-run-*/*.wandb")
    content = log.read_bytes()
    assert b"cat/loss" in content
    assert b"star_cat" in content


def test_a16_a_concept_is_ablated_at_the_default_settings(forgets_at_defaults: Callable[..., None]):
    forgets_at_defaults("ablate")
