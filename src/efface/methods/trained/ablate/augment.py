"""Concept ablation's pictures, shrunk or enlarged, so that a concept is forgotten at any size.

Two of three pictures are shrunk to a random side from a third to all of it, the others are enlarged to 1.2 to 1.4 times
and cropped. One below 0.6 is put on an empty canvas, and counts in the loss only where it is; its prompt begins with
"a far away" or "very small". One that is enlarged is "zoomed in" or a "close up". One between 0.6 and 1 stays whole.

These are the numbers of the CompVis code, compvis/src/finetune_data.py of https://github.com/nupurkmr9/concept-ablation,
which made the paper's results. Its diffusers code also puts pictures from 0.6 to 1 on the canvas.

Shapes: S the picture's side in pixels, f pixels a latent, s = S / f.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL, LARGE = ("a far away ", "very small "), ("zoomed in ", "close up ")


class View(NamedTuple):
    """A picture (3, S, S), which of its latents count (1, s, s), how its prompt begins, and what it may be known by."""

    picture: Tensor
    mask: Tensor
    prefix: str
    key: tuple[int, bool] | None = None


def whole(picture: Tensor, factor: int) -> View:
    """The picture as it is."""
    side = picture.shape[-1] // factor
    return View(picture, torch.ones(1, side, side), "")


def augmented(picture: Tensor, factor: int, generator: torch.Generator) -> View:
    """A picture (3, S, S) in [-1, 1], of which `factor` pixels are a latent, shrunk or enlarged."""
    size = picture.shape[-1]
    if random_choice(3, generator) < 2:
        # The mask leaves out the outermost latents: three are the least that leave one.
        least = min(max(size // 3, 3 * factor), size)
        side = least + random_choice(size + 1 - least, generator)
    else:
        side = int(1.2 * size) + random_choice(int(1.4 * size) - int(1.2 * size), generator)
    side += side % 2
    if side < 0.6 * size:
        top, left = random_choice(size - side + 1, generator), random_choice(size - side + 1, generator)
        canvas = torch.zeros_like(picture)
        canvas[:, top : top + side, left : left + side] = resized(picture, side)
        mask = torch.zeros(1, size // factor, size // factor)
        rows, columns = (slice(at // factor + 1, (at + side) // factor - 1) for at in (top, left))
        mask[:, rows, columns] = 1
        return View(canvas, mask, SMALL[random_choice(2, generator)])
    if side > size:
        top, left = random_choice(side - size + 1, generator), random_choice(side - size + 1, generator)
        crop = resized(picture, side)[:, top : top + size, left : left + size]
        return whole(crop, factor)._replace(prefix=LARGE[random_choice(2, generator)])
    return whole(picture, factor)


def mirrored(picture: Tensor, generator: torch.Generator) -> Tensor:
    """The picture, or every other time its mirror image."""
    return picture.flip(-1) if random_choice(2, generator) else picture


def resized(picture: Tensor, side: int) -> Tensor:
    """A picture (3, S, S) in [-1, 1] at another size."""
    scaled = F.interpolate(picture[None], (side, side), mode="bicubic", antialias=True, align_corners=False)
    return scaled[0].clamp(-1, 1)


def random_choice(choices: int, generator: torch.Generator) -> int:
    """One of 0, 1, ..., all equally likely."""
    return int(torch.randint(choices, (), generator=generator))
