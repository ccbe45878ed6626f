"""The last subject tokens of a vocabulary's words, kept in the cache: they are the same at every erase on a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from efface.files import cache_folder
from efface.models.model import Model
from efface.models.tensor_cache import keep, kept

_PROBES = 16
_TOLERANCE = 1e-4  # relative; rounding is far below in float32, and embedding anew costs only time
_WORTH = 1000  # words; fewer are embedded in less time than the text encoder's hash takes


def word_tokens(model: Model, words: Sequence[str], clip_skip: int | None) -> Tensor:
    """What `model.last_tokens` gives for the words, (n, d), from the cache if they were ever embedded before.

    A text encoder can be changed in memory while its files stay as they are, so a few words are embedded in any case:
    what is kept serves only where it agrees.
    """
    if len(words) < _WORTH:
        return model.last_tokens(words, clip_skip=clip_skip)
    told = "\0".join([model.part_hash("text_encoder"), str(model.dtype), str(clip_skip or 0), *words])
    place = cache_folder() / "words" / f"{hashlib.sha256(told.encode()).hexdigest()}.safetensors"
    known = kept(place, "tokens", (len(words), model.width))
    rows: list[int] = torch.linspace(0, len(words) - 1, _PROBES).long().tolist()
    probes = model.last_tokens([words[row] for row in rows], clip_skip=clip_skip)
    if known is not None and bool(((known[rows] - probes).norm(dim=1) <= _TOLERANCE * probes.norm(dim=1)).all()):
        return known
    tokens = model.last_tokens(words, clip_skip=clip_skip)
    if known is None:
        keep(place, "tokens", tokens)
    return tokens
