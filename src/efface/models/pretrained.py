"""Loading parts of pretrained models: from safetensors only, complete, and with PIL's image processing."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from efface.errors import BadFile, BadInput
from efface.models.storage.folder import INDEX, Folder, has_weights
from efface.parsing import library_errors

# Imported one by one: the text encoder alone loads in half the time that all of diffusers takes.
_MODULES = {
    "CLIPTokenizer": "transformers.models.clip.tokenization_clip",
    "CLIPTextModel": "transformers.models.clip.modeling_clip",
    "CLIPTextModelWithProjection": "transformers.models.clip.modeling_clip",
    "UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition",
    "AutoencoderKL": "diffusers.models.autoencoders.autoencoder_kl",
}


def open_network(
    kind: Any, weights: str, what: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """Open a network of transformers in evaluation mode, without gradients.

    Args:
        kind: The class, or an auto class.
        weights: Folder or hub id.
        what: The network in words, for messages ("a CLIP model").
        device: Its device.
        dtype: The type of its weights.

    Raises:
        BadInput: There is no such network, it is of another kind, or weights are missing.
    """
    network, report = open_part(kind, weights, what, use_safetensors=True, dtype=dtype, output_loading_info=True)
    # transformers would initialise missing weights at random: a judge that guesses.
    if missing := sorted(report["missing_keys"]):
        raise BadInput(f"Cannot open {what} at '{weights}': {missing[0]} and {len(missing) - 1} more are missing.")
    return network.eval().requires_grad_(False).to(device)


def open_part(kind: Any, weights: str, what: str, **options: Any) -> Any:
    """Call `kind.from_pretrained` and report every failure in one line.

    Args:
        kind: The class, or an auto class.
        weights: Folder or hub id.
        what: The part in words, for messages.
        options: Further arguments of `from_pretrained`.

    Raises:
        BadInput: It cannot be opened.
    """
    with library_errors(f"Cannot open {what} at '{weights}'"), no_loading_bar():
        return kind.from_pretrained(weights, **options)


def image_processor(weights: str) -> Any:
    """The image processor with PIL, whatever else is installed, because torchvision's gives other pixels."""
    from transformers import AutoImageProcessor

    return open_part(AutoImageProcessor, weights, "an image processor", backend="pil")


def load_part(folder: Folder, part: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Load one part of a diffusers folder for inference, importing no more than it needs.

    Args:
        folder: The folder.
        part: Name of the part in the folder's index.
        device: The device of its weights.
        dtype: The type of its weights.

    Raises:
        BadFile: The index names no class for the part, or its files cannot be read.
    """
    kind = class_of(folder, part)
    with library_errors(f"Cannot open the {part} of {folder.root}"), no_loading_bar():
        loaded = folder.load(part, kind, dtype)
    if not has_weights(kind):
        return loaded
    if kind.__name__ in ("UNet2DConditionModel", "AutoencoderKL"):
        # Convolutions run up to half faster with channels last, on CPUs and on tensor cores.
        loaded = loaded.to(memory_format=torch.channels_last)
    return loaded.to(device).eval().requires_grad_(False)


def class_of(folder: Folder, part: str) -> Any:
    """The class of a part, which must be of transformers or diffusers: other code is never run.

    Raises:
        BadFile: The index names no such class.
    """
    entry = folder.index().get(part)
    library, name = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    if library not in ("transformers", "diffusers") or not isinstance(name, str) or not name.isidentifier():
        raise BadFile(f"{folder.root / INDEX} names no class of diffusers or transformers for its {part}.")
    with _no_advice():
        kind = getattr(import_module(_MODULES.get(name, library)), name, None)
    if not isinstance(kind, type):
        raise BadFile(f"{folder.root / INDEX} names {library}'s {name} for its {part}; the installed one has none.")
    return kind


def from_diffusers(name: str) -> Any:
    """The class of diffusers with this name; None if the installed one has none."""
    import diffusers

    with _no_advice():
        return getattr(diffusers, name, None)


@contextmanager
def _no_advice() -> Generator[None, None, None]:
    """Hide transformers' advice to install torchvision, for the image processors that pipelines import.

    efface does not use these, and processes the images of its judges with PIL.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return "requires torchvision (not installed)" not in str(record.msg)

    logger = logging.getLogger("transformers.utils.import_utils")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


@contextmanager
def no_loading_bar() -> Generator[None, None, None]:
    """Hide transformers' progress bar, which is meant for models that take minutes to load or to save."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


@contextmanager
def no_progress_bar(pipeline: Any) -> Generator[None, None, None]:
    """Hide the progress bar of a pipeline of diffusers."""
    config = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**config)
