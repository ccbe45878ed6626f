"""The image features of any CLIP of transformers (`clip:HUB-ID` or `clip:FOLDER`).

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020. The projected
features, not normalised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from efface.errors import BadInput
from efface.generation.folder import Pixels
from efface.metrics.bootstrap import Array
from efface.metrics.features import Extractor, ExtractorEntry
from efface.models.clip import Clip, open_clip


class ClipExtractor:
    """Features by a CLIP.

    Args:
        clip: The CLIP.
    """

    def __init__(self, clip: Clip) -> None:
        self.version = clip.version
        self._clip = clip

    def features(self, images: Sequence[Pixels]) -> Array:
        return self._clip.image_features(images).numpy()


def _open(argument: str, device: str | torch.device) -> Extractor:
    if not argument:
        raise BadInput("The extractor 'clip' needs a hub id or a folder (clip:openai/clip-vit-base-patch32).")
    return ClipExtractor(open_clip(argument, device))


ENTRY = ExtractorEntry(
    name="clip",
    summary="any CLIP (clip:HUB-ID or clip:FOLDER)",
    source="https://arxiv.org/abs/2103.00020",
    open=_open,
)
