"""Tensors of another floating-point type, as `efface export --dtype` writes them."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.errors import BadInput


def converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of any shape in another type, if it has floating numbers.

    Args:
        name: Its name, for messages.
        tensor: The tensor.
        dtype: The type.

    Raises:
        BadInput: A number is too large for the type.
    """
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    result = tensor.to(dtype)
    if dtype == torch.float16 and not result.isfinite().all() and tensor.isfinite().all():
        raise BadInput(f"{name} has numbers that are too large for float16; export with --dtype bf16 or float32.")
    return result
