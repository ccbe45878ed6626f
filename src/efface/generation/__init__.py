"""Prompts to images: fast, and identical to the pixel for identical settings.

`jobs` has the records, `prompts` reads files of prompts, `sampling` makes images, `folder` stores them, and `run` puts
these together. Modules that need torch are imported on first use, so that reading prompts and settings is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from efface.generation.folder import Image, read_folder
from efface.generation.jobs import SAMPLERS, Embedding, Job, Sampling, jobs_for, repeated
from efface.generation.prompts import read_prompts
from efface.image_files import read_picture

if TYPE_CHECKING:
    from efface.generation.run import Recipe, generate_images
    from efface.generation.sampling import sample, sample_latents

__all__ = [
    "SAMPLERS",
    "Embedding",
    "Image",
    "Job",
    "Recipe",
    "Sampling",
    "generate_images",
    "jobs_for",
    "read_folder",
    "read_picture",
    "read_prompts",
    "repeated",
    "sample",
    "sample_latents",
]

_HOMES = {"Recipe": "run", "generate_images": "run", "sample": "sampling", "sample_latents": "sampling"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'efface.generation' has no attribute '{name}'")
    return getattr(import_module(f"efface.generation.{_HOMES[name]}"), name)
