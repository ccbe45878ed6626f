"""Fixtures: the tiny pipeline of each family, and its folder."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from efface import Model, open_model
from tiny_families import diffusers, tiny_flux, tiny_flux2, tiny_lumina, tiny_pixart, tiny_sd2, tiny_sd3, tiny_sdxl
from tiny_transformers import Parts, of_chroma, of_hunyuan, of_qwen, of_sana, of_wan, of_z_image, pipeline_of

_MAKERS: dict[str, Callable[[Path], Any]] = {
    "sd1": diffusers.StableDiffusionPipeline.from_pretrained, "sd2": tiny_sd2, "sdxl": tiny_sdxl, "sd3": tiny_sd3,
    "flux": tiny_flux, "flux-dev": partial(tiny_flux, guidance_embeds=True), "flux2": tiny_flux2,
    "pixart": tiny_pixart, "lumina2": tiny_lumina,
}  # fmt: skip
_PARTS: dict[str, tuple[str, Callable[[Path], Parts]]] = {
    "chroma": ("ChromaPipeline", of_chroma), "sana": ("SanaPipeline", partial(of_sana, guidance_embeds=False)),
    "z-image": ("ZImagePipeline", of_z_image), "qwen-image": ("QwenImagePipeline", of_qwen),
    "hunyuan-dit": ("HunyuanDiTPipeline", of_hunyuan), "wan": ("WanPipeline", of_wan),
}  # fmt: skip


@cache
def _made(family: str, tiny_sd: Path, seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family in _PARTS:
            name, parts = _PARTS[family]
            pipeline = pipeline_of(name, parts(tiny_sd))
        else:
            pipeline = _MAKERS[family](tiny_sd)
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "default_sample_size"):
        pipeline.default_sample_size = 8  # latents along a side of an image, for pipelines of one size
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipeline


@pytest.fixture
def tiny(tiny_sd: Path) -> Callable[..., Any]:
    """The tiny pipeline of a family; each test gets the same one, and leaves it as it was."""
    return lambda family, seed=0: _made(family, tiny_sd, seed)


@pytest.fixture(scope="session")
def saved(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny pipeline; do not write into it."""

    @cache
    def save(family: str) -> Path:
        folder = tmp_path_factory.mktemp("families") / family
        _made(family, tiny_sd, 0).save_pretrained(folder)
        return folder

    return save


@cache
def _opened(family: str, tiny_sd: Path) -> Model:
    return open_model(_made(family, tiny_sd, 0))


@pytest.fixture
def tiny_model_of(tiny_sd: Path) -> Callable[[str], Model]:
    """The opened tiny pipeline of a family, whose text encoding is checked once; each test leaves it as it was."""
    return lambda family: _opened(family, tiny_sd)
