"""Item 2: weights that are offloaded or quantised are rejected, and never reported as edited."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import nn

import efface
from efface import BadInput, Eraser


@pytest.fixture
def pipe(tiny_sd: Path) -> Any:
    kind: Any = StableDiffusionPipeline
    return kind.from_pretrained(tiny_sd)


@pytest.fixture
def eraser(tiny_sd: Path) -> Eraser:
    return efface.erase(tiny_sd, "cat", to="dog")


def offloaded(pipe: Any, tmp_path: Path) -> None:
    cpu_offload(pipe.unet, execution_device=torch.device("cpu"))


def on_disk(pipe: Any, tmp_path: Path) -> None:
    disk_offload(pipe.unet, str(tmp_path / "disk"), execution_device=torch.device("cpu"))


def on_meta(pipe: Any, tmp_path: Path) -> None:
    pipe.unet.to("meta")


def text_encoder(pipe: Any, tmp_path: Path) -> None:
    cpu_offload(pipe.text_encoder, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("change", [offloaded, on_disk, on_meta, text_encoder])
def test_weights_that_are_not_in_memory(
    pipe: Any, eraser: Eraser, tmp_path: Path, change: Callable[[Any, Path], None]
) -> None:
    change(pipe, tmp_path)
    uses: list[Callable[[], object]] = [
        lambda: eraser.bake(pipe),
        lambda: eraser.attach(pipe),
        lambda: efface.erase(pipe, "cat", to="dog"),
        lambda: efface.generate("a cat", model=pipe, steps=1),
    ]
    for use in uses:
        with pytest.raises(BadInput, match="not in memory"):
            use()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits(pipe: Any, eraser: Eraser, dtype: torch.dtype) -> None:
    pipe.unet.to(dtype)
    before = {name: weight.view(torch.uint8).clone() for name, weight in pipe.unet.named_parameters()}
    with pytest.raises(BadInput, match="quantised"):
        eraser.bake(pipe)
    assert all(torch.equal(before[name], weight.view(torch.uint8)) for name, weight in pipe.unet.named_parameters())


def test_quantised_modules(pipe: Any, eraser: Eraser) -> None:
    quantisation: Any = import_module("torch.ao.quantization")
    pipe.unet = quantisation.quantize_dynamic(pipe.unet, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(BadInput):
        eraser.bake(pipe)


def test_weights_in_memory_are_edited(pipe: Any, eraser: Eraser) -> None:
    before = {name: weight.clone() for name, weight in pipe.unet.named_parameters()}
    baked = eraser.bake(pipe)
    changed = [name for name, weight in pipe.unet.named_parameters() if not torch.equal(before[name], weight)]
    assert len(changed) == len(baked) > 0
