"""Plans: sizes of parts by headers and by configurations, and estimated peaks beside those of the allocator."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import efface
from efface import BadInput, open_model
from efface.methods.trained.denoiser_parameters import TrainMethod, trained_parameters
from efface.methods.trained.lora.layers import trained_layers
from efface.methods.training.low_rank import LowRank
from efface.methods.training.weights import Copies, Weights
from efface.models.checkpointing import checkpointed
from efface.models.memory import denoiser_arguments, part_sizes, work_memory
from efface.models.parameters import call_with
from efface.models.storage.folder import Folder

ROOT = Path(__file__).parents[2]


def write_header(file: Path, shapes: dict[str, list[int]], dtype: str, each: int) -> int:
    """A safetensors file with a header and no numbers; returns the size that the header declares."""
    entries, at = {}, 0
    for name, shape in shapes.items():
        size = each * torch.Size(shape).numel()
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    return at


@pytest.mark.parametrize(
    ("name", "part", "billions"),
    [("FLUX.1 dev", "transformer", 11.901), ("SDXL", "unet", 2.567), ("SD3.5 large", "transformer", 8.057)],
)
def test_published_sizes_follow_from_configurations_and_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: str, billions: float
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    published = import_module("published_models").write_configs(name, tmp_path / "published")
    folder = Folder(published)
    size = part_sizes(folder)[part]
    assert size.parameters == pytest.approx(billions * 1e9, rel=1e-3)
    assert size.file_bytes is None
    shapes = {"a": [size.parameters // 2], "b": [size.parameters - size.parameters // 2]}
    write_header(published / part / "diffusion_pytorch_model.safetensors", shapes, "BF16", 2)
    found = part_sizes(folder)[part]
    assert (found.parameters, found.file_bytes) == (size.parameters, 2 * size.parameters)


def allocated(run: Callable[[], object]) -> int:
    """The peak of the bytes that torch's allocator has given out and not received back, while a function runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    of_torch: Any = profile.profiler
    memory = [event for event in of_torch.kineto_results.events() if event.name() == "[memory]"]
    events = [(event.start_ns(), event.nbytes()) for event in memory]
    now = peak = 0
    for _, count in sorted(events):
        now += count
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("family", "kind"), [("sdxl", "copies"), ("sd3", "copies"), ("flux", "copies"), ("sd3", "low rank")]
)
def test_the_peak_of_a_step_is_that_of_the_allocator(saved: Callable[[str], Path], family: str, kind: str) -> None:
    folder, part = Folder(saved(family)), "unet" if family == "sdxl" else "transformer"

    def student(denoiser: Any) -> Weights:
        if kind == "copies":
            return Copies(denoiser, trained_parameters(denoiser, "esd-x"))
        return LowRank(denoiser, trained_layers(denoiser, "attention"), 4, 1.0, torch.Generator())

    planned = work_memory(folder, part, 64, 2, torch.float32, student)
    assert planned is not None
    denoiser = open_model(saved(family)).denoiser.requires_grad_(False)
    weights = student(denoiser)
    arguments = denoiser_arguments(denoiser, 32, 1, torch.float32)
    assert arguments is not None

    def step() -> None:
        weights.zero_grad()
        call_with(denoiser, weights(), (), arguments)[0].square().mean().backward()

    assert planned.step == pytest.approx(allocated(step), rel=0.15)
    with checkpointed(denoiser):
        assert planned.step_checkpointed == pytest.approx(allocated(step), rel=0.15)
    two = denoiser_arguments(denoiser, 32, 2, torch.float32) or {}
    with torch.no_grad():
        assert planned.predict == pytest.approx(allocated(lambda: denoiser(**two)), rel=0.15)
    assert (planned.step_checkpointed or 0) < (planned.step or 0)
    assert planned.trained == sum(one.numel() for one in weights.parameters())


def test_a_plan_of_a_closed_form_and_of_a_training(saved: Callable[[str], Path]) -> None:
    closed, trained = (
        efface.plan(saved("sdxl"), vram=8),
        efface.plan(saved("sdxl"), "esd", vram=0.7, train_method="esd-x"),
    )
    assert set(closed.parts) == {"unet", "text_encoder", "text_encoder_2", "vae"}
    for name, part in closed.parts.items():
        file = next((saved("sdxl") / name).glob("*.safetensors"))
        assert 0 < file.stat().st_size - (part.file_bytes or 0) < 100_000  # the header
        assert part.bytes == {"float32": 4 * part.parameters, "bf16": 2 * part.parameters}
    assert [work.work for work in closed.work] == ["erase"] * 2 + ["generate"] * 8
    assert {work.fits for work in closed.work} == {"yes"}
    assert {work.fits for work in trained.work} == {"no"}
    assert trained.trained > 0
    generate = {(w.dtype, w.offload, w.quantize): w.bytes for w in closed.work if w.work == "generate"}
    assert generate["bf16", "none", "none"] < generate["float32", "none", "none"]
    assert generate["bf16", "model", "none"] < generate["bf16", "none", "none"]
    assert generate["bf16", "none", "fp8"] < generate["bf16", "none", "none"]
    maps = [
        module.weight.numel() for module in open_model(saved("sdxl")).denoiser.modules() if type(module) is nn.Linear
    ]
    saved_bytes = generate["bf16", "none", "none"] - generate["bf16", "none", "nf4"]
    assert saved_bytes == round(sum(maps) * (2 - 0.515625))
    assert json.loads(json.dumps(trained.to_json()))["parts"]["vae"]["parameters"] == trained.parts["vae"].parameters


def test_a_method_that_does_not_support_the_model_has_no_plan(saved: Callable[[str], Path]) -> None:
    with pytest.raises(BadInput, match="does not support"):
        efface.plan(saved("flux"), "robust")


def test_the_published_preset_of_every_method_can_be_planned() -> None:
    assert efface.plan("emoji", "uce", preset="published").work == efface.plan("emoji", "uce").work


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("uce", {"vram": float("inf")}, "--vram inf"),
        ("ablate", {"parameter_group": "embedding"}, "another parameter_group"),
    ],
)
def test_what_cannot_be_planned_is_rejected(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        efface.plan("emoji", method, **options)


@pytest.mark.parametrize(
    ("options", "chosen"), [({"preset": "2023"}, "noxattn"), ({}, "esd-u"), ({"preset": "sdxl"}, "esd-x")]
)
def test_a_plan_counts_the_parameters_that_esd_trains(
    tiny_sd: Path, options: dict[str, Any], chosen: TrainMethod
) -> None:
    denoiser = open_model(tiny_sd).denoiser
    count = sum(denoiser.get_parameter(name).numel() for name in trained_parameters(denoiser, chosen))
    assert efface.plan(tiny_sd, "esd", **options).trained == count
