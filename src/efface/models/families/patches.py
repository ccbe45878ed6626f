"""Latents as tokens, each a patch of 2x2: the layout of FLUX, FLUX.2, Chroma and Qwen-Image.

Shapes: b samples, C latent channels, h and w latent size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def patches_of(x: Tensor) -> Tensor:
    """Latents (b, C, h, w) as tokens, each a patch of 2x2, (b, hw/4, 4C)."""
    b, channels, h, w = x.shape
    grid = x.reshape(b, channels, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(b, h * w // 4, channels * 4)


def latents_of_patches(tokens: Tensor, h: int, w: int) -> Tensor:
    """The inverse of `patches_of`, (b, C, h, w).

    Args:
        tokens: The tokens, (b, hw/4, 4C).
        h: The height of the latents.
        w: Their width.
    """
    b, _, width = tokens.shape
    grid = tokens.reshape(b, h // 2, w // 2, width // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(b, width // 4, h, w)


def patch_rows_and_columns(h: int, w: int) -> Tensor:
    """The row and the column of each patch of latents of size h x w, (hw/4, 2), float32."""
    return torch.cartesian_prod(torch.arange(h // 2), torch.arange(w // 2)).float()
