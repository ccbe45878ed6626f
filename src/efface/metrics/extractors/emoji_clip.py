"""The image features of the embedded model's own CLIP (`emoji-clip`), which needs no download."""

from __future__ import annotations

import torch

from efface.errors import BadInput
from efface.metrics.extractors.clip import ClipExtractor
from efface.metrics.features import Extractor, ExtractorEntry
from efface.models.clip import open_clip


def _open(argument: str, device: str | torch.device) -> Extractor:
    if argument:
        raise BadInput(f"The extractor 'emoji-clip' takes no argument; leave out '{argument}'.")
    return ClipExtractor(open_clip("", device))


ENTRY = ExtractorEntry(
    name="emoji-clip",
    summary="the embedded model's own CLIP",
    source="zoo/emoji in this repository",
    open=_open,
)
