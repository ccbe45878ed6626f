"""Item 22: a guard attached to a compiled denoiser steers as on the plain one."""

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import Tensor

import efface


def draw(pipeline: Any, steps: int = 1) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline("cat", num_inference_steps=steps, height=16, width=16, output_type="latent", generator=generator)[0]


def test_a_guard_on_a_compiled_denoiser(tiny_sd: Path) -> None:
    kind: Any = StableDiffusionPipeline
    pipe = kind.from_pretrained(tiny_sd)
    eraser = efface.erase(pipe, "cat", method="negative")
    with eraser.attach(pipe):
        expected = draw(pipe)
    assert not torch.equal(draw(pipe), expected)
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    with eraser.attach(pipe):
        torch.testing.assert_close(draw(pipe), expected, rtol=1e-5, atol=1e-5)
