"""Tensors that are computed once and kept in the cache."""

from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from efface.files import keep_in_cache


def kept(place: Path, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """What was kept, if it is whole."""
    with suppress(OSError, SafetensorError), safe_open(place, framework="pt") as file:
        tensor = file.get_tensor(name)
        if tensor.shape == shape and tensor.isfinite().all():
            return tensor
    return None


def keep(place: Path, name: str, tensor: Tensor) -> None:
    """Keep it, if the cache can be written."""
    with suppress(SafetensorError):
        keep_in_cache(place, lambda path: save_file({name: tensor}, path))
