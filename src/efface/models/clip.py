"""CLIP (arXiv 2103.00020): features of images and texts in one space, for judges and metrics.

The built-in model `emoji` has its own CLIP: its text encoder, and an image encoder that was trained to agree with it.
`models/emoji/clip` contains the configuration of a `CLIPModel` and all weights except those of the text encoder, which
is the one of the diffusion model, as in Stable Diffusion.

Images are processed by PIL whatever else is installed, because torchvision gives other pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from efface.errors import BadFile
from efface.files import sha256_of_tensors
from efface.models.emoji import HERE
from efface.models.pretrained import image_processor, open_network, open_part

EMBEDDED = "emoji"
_BATCH = 64
# transformers 4 writes the text encoder's weights under this prefix, transformers 5 without.
_PREFIX = re.compile(r"^(text_model\.)?")


class Clip:
    """A CLIP model that is ready for use.

    Args:
        model: A transformers `CLIPModel`.
        tokenizer: Its tokenizer.
        processor: Its image processor, with PIL.
        name: The name that it was opened by.
    """

    def __init__(self, model: Any, tokenizer: Any, processor: Any, name: str) -> None:
        self.name = name
        self._model, self._tokenizer, self._processor = model.eval().requires_grad_(False), tokenizer, processor

    @cached_property
    def version(self) -> str:
        """The last part of the name and a hash of the weights; independent of where the files are."""
        return f"clip:{Path(self.name).name} {sha256_of_tensors(self._model.state_dict())[:12]} PIL"

    @property
    def scale(self) -> Tensor:
        """The learned factor s of the cosines, a scalar, float64."""
        return self._model.logit_scale.cpu().double().exp()

    @torch.no_grad()
    def image_features(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Tensor:
        """Projected features (n, d) of n images (H, W, 3) of any sizes, float64, not normalised."""
        parts: list[Tensor] = []
        for start in range(0, len(images), _BATCH):
            inputs = self._processor(list(images[start : start + _BATCH]), return_tensors="pt")
            parts.append(_features(self._model.get_image_features(inputs["pixel_values"].to(self._model.device))))
        return torch.cat(parts)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Projected features (m, d) of m texts, truncated if too long, float64, not normalised."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self._model.device)
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        return _features(self._model.get_text_features(input_ids=ids, attention_mask=mask))

    def cosines(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], texts: Sequence[str]) -> Tensor:
        """Cosines cos(f(image), g(text)) of n images (H, W, 3) and m texts, (n, m), float64."""
        f, g = self.image_features(images), self.text_features(texts)
        return F.normalize(f, dim=-1) @ F.normalize(g, dim=-1).T


def _features(output: Any) -> Tensor:
    """transformers 5 returns features as `pooler_output`, version 4 directly."""
    tensor: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return tensor.cpu().double()


def open_clip(weights: str = "", device: str | torch.device = "cpu") -> Clip:
    """Open a folder or hub id of a `CLIPModel`; "" and "emoji" are the CLIP of the built-in model.

    Raises:
        BadInput: There is no such model, or it is not a CLIP model.
    """
    if weights in ("", EMBEDDED):
        return _embedded(device)
    from transformers import AutoTokenizer, CLIPModel

    model = open_network(CLIPModel, weights, "a CLIP model", device)
    tokenizer = open_part(AutoTokenizer, weights, "a CLIP tokenizer")
    return Clip(model, tokenizer, image_processor(weights), weights)


def _embedded(device: str | torch.device) -> Clip:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.clip.modeling_clip import CLIPModel

    from efface.models.open import open_model

    folder, base = HERE / "clip", open_model("emoji")
    try:
        config: Any = CLIPConfig.from_pretrained(folder)
        model: Any = CLIPModel(config)
        state = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
        text = base.text_encoder.state_dict()
        state |= {_PREFIX.sub("text_model.", name, count=1): value for name, value in text.items()}
        model.load_state_dict(state)
        processor = CLIPImageProcessorPil.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadFile(f"Cannot read the CLIP in {folder}: {' '.join(str(error).split())[:200]}.") from error
    return Clip(model.to(device), base.tokenizer, processor, EMBEDDED)
