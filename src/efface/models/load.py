"""Loading one part of a diffusers folder, importing no more than that part needs."""

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from efface.models.folder import Folder

# Imported one by one: the text encoder alone is there in half the time that all of diffusers takes.
CLASSES = {
    "tokenizer": "transformers.models.clip.tokenization_clip:CLIPTokenizer",
    "text_encoder": "transformers.models.clip.modeling_clip:CLIPTextModel",
    "unet": "diffusers.models.unets.unet_2d_condition:UNet2DConditionModel",
    "vae": "diffusers.models.autoencoders.autoencoder_kl:AutoencoderKL",
}


def load_part(folder: Folder, part: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A part, for inference: its weights in `dtype` on `device`, none of them to be trained."""
    module, _, name = CLASSES[part].partition(":")
    kind = getattr(import_module(module), name)
    place = folder.root / part
    if part == "tokenizer":
        return kind.from_pretrained(place, local_files_only=True)
    # transformers and diffusers call the same option by two names.
    cast = {"dtype" if part == "text_encoder" else "torch_dtype": dtype}
    variant = folder.variant(part)
    with quiet():
        loaded = kind.from_pretrained(place, variant=variant, use_safetensors=True, local_files_only=True, **cast)
    if part in ("unet", "vae"):
        # Convolutions run up to half faster with channels last, on CPUs and on tensor cores alike.
        loaded = loaded.to(memory_format=torch.channels_last)
    return loaded.to(device).eval().requires_grad_(False)


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
