"""Tensors of a model that are computed once and stored in the cache on disk.

Among them are the last subject tokens of a vocabulary's words, which are the same at every erase on a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from efface.errors import BadFile
from efface.files import cache_folder, from_cache, keep_in_cache
from efface.models.model import Model
from efface.tensor_files import read_safetensors
from efface.tensor_writing import write_tensors

_PROBES = 16
_TOLERANCE = 1e-4  # relative; rounding is far below in float32, and embedding again only costs time
_MIN_WORDS = 1000  # fewer words are embedded in less time than the hash of the text encoder takes


def load_tensor(path: Path, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """Load a cached tensor of the given shape; None if there is none, or it is damaged.

    Args:
        path: File in the cache.
        name: Name of the tensor in the file.
        shape: Expected shape, such as (d, d).
    """
    if from_cache(path) is None:
        return None
    with suppress(BadFile):
        tensor = read_safetensors(path, "a cached tensor")[1].get(name)
        if tensor is not None and tensor.shape == shape and tensor.is_floating_point() and tensor.isfinite().all():
            return tensor
    return None


def store_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Store a tensor in the cache if the cache can be written.

    Args:
        path: File in the cache.
        name: Name of the tensor in the file.
        tensor: Of any shape.
    """
    keep_in_cache(path, lambda place: write_tensors(place, {name: tensor}))


def word_tokens(model: Model, words: Sequence[str], clip_skip: int | None) -> Tensor:
    """The same as `model.last_tokens`, (n, d), from the cache if the words were embedded before.

    A text encoder can be changed in memory while its files stay the same; therefore a few words are always embedded,
    and the cached tokens are used only if they agree.

    Args:
        model: The model.
        words: The n words.
        clip_skip: Number of the text encoder's last layers to skip.
    """
    if len(words) < _MIN_WORDS:
        return model.last_tokens(words, clip_skip=clip_skip)
    key = "\0".join([model.part_hash("text_encoder"), str(model.dtype), str(clip_skip or 0), *words])
    path = cache_folder() / "words" / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    cached = load_tensor(path, "tokens", (len(words), model.width))
    rows: list[int] = torch.linspace(0, len(words) - 1, _PROBES).long().tolist()
    probes = model.last_tokens([words[row] for row in rows], clip_skip=clip_skip)
    if cached is not None and bool(((cached[rows] - probes).norm(dim=1) <= _TOLERANCE * probes.norm(dim=1)).all()):
        return cached
    tokens = model.last_tokens(words, clip_skip=clip_skip)
    if cached is None:
        store_tensor(path, "tokens", tokens)
    return tokens
