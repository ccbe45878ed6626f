"""Opening networks of transformers by folder or hub id: safetensors only, whole, and with PIL's pictures."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from efface.errors import BadFile, BadInput
from efface.models.storage.folder import INDEX, Folder, has_weights


def open_network(
    kind: Any, weights: str, what: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """A network in evaluation mode, without gradients.

    Args:
        kind: The class, or an auto class.
        weights: Folder or hub id.
        what: The network in words, for messages ("a CLIP model").
        device: Where it goes.
        dtype: Of its weights.

    Raises:
        BadInput: There is no such network, it is of another kind, or weights are missing from it.
    """
    network, found = open_part(kind, weights, what, use_safetensors=True, dtype=dtype, output_loading_info=True)
    # transformers would draw what is missing at random: a judge that guesses.
    if missing := sorted(found["missing_keys"]):
        raise BadInput(f"Cannot open {what} at '{weights}': {missing[0]} and {len(missing) - 1} more are missing.")
    return network.eval().requires_grad_(False).to(device)


def open_part(kind: Any, weights: str, what: str, **options: Any) -> Any:
    """`kind.from_pretrained`, with every way in which it fails told in one line.

    Raises:
        BadInput: It cannot be opened.
    """
    from safetensors import SafetensorError

    try:
        with quiet():
            return kind.from_pretrained(weights, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadInput(f"Cannot open {what} at '{weights}': {reason}") from error


def image_processor(weights: str) -> Any:
    """The image processor, by PIL whatever else is installed, since torchvision's gives other pixels."""
    from transformers import AutoImageProcessor

    return open_part(AutoImageProcessor, weights, "an image processor", backend="pil")


# Loading one part of a model, importing no more than that part needs.


# Imported one by one: the text encoder alone is there in half the time that all of diffusers takes.
CLASSES = {
    "CLIPTokenizer": "transformers.models.clip.tokenization_clip",
    "CLIPTextModel": "transformers.models.clip.modeling_clip",
    "CLIPTextModelWithProjection": "transformers.models.clip.modeling_clip",
    "UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition",
    "AutoencoderKL": "diffusers.models.autoencoders.autoencoder_kl",
}


def load_part(folder: Folder, part: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A part, for inference: its weights in `dtype` on `device`, none of them to be trained."""
    kind = class_of(folder, part)
    with quiet():
        loaded = folder.load(part, kind, dtype)
    if not has_weights(kind):
        return loaded
    if kind.__name__ in ("UNet2DConditionModel", "AutoencoderKL"):
        # Convolutions run up to half faster with channels last, on CPUs and on tensor cores alike.
        loaded = loaded.to(memory_format=torch.channels_last)
    return loaded.to(device).eval().requires_grad_(False)


def class_of(folder: Folder, part: str) -> Any:
    """The class that the index names, of transformers or diffusers: code from elsewhere is never run."""
    library, name = (*(folder.index().get(part) or ()), None, None)[:2]
    if library not in ("transformers", "diffusers") or not isinstance(name, str) or not name.isidentifier():
        raise BadFile(f"{folder.root / INDEX} names no class of diffusers or transformers for its {part}.")
    kind = getattr(import_module(CLASSES.get(name, library)), name, None)
    if not isinstance(kind, type):
        raise BadFile(f"{folder.root / INDEX} names {library}'s {name} for its {part}; the installed one has none.")
    return kind


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Without transformers' progress bar, which is for models that take minutes to load."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
