"""Augmentation of concept ablation: images are shrunk or enlarged, so that a concept is erased at any size.

Two of three images are resized to a random side from a third of the original to all of it, the others are enlarged to
1.2 to 1.4 times the side and cropped. An image below 0.6 is pasted on an empty canvas, and the loss is masked to it;
its prompt begins with "a far away" or "very small". An enlarged image is "zoomed in" or a "close up". An image between
0.6 and 1 is used in its original size.

The numbers are those of the CompVis code, compvis/src/finetune_data.py of
https://github.com/nupurkmr9/concept-ablation, with which the paper's results were made. The diffusers code there also
pastes images from 0.6 to 1 on the canvas.

Shapes: S side of the image in pixels, f pixels per latent, s = S / f.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL, LARGE = ("a far away ", "very small "), ("zoomed in ", "close up ")


class View(NamedTuple):
    """An image after augmentation.

    Attributes:
        picture: The image, (3, S, S), in [-1, 1].
        mask: The latents that count in the loss, 0 or 1, (1, s, s).
        prefix: The beginning of its prompt.
        key: The key for a cache; None if the image differs each time.
    """

    picture: Tensor
    mask: Tensor
    prefix: str
    key: tuple[int, bool] | None = None


def unchanged_view(picture: Tensor, factor: int) -> View:
    """The view of an unchanged image (3, S, S)."""
    side = picture.shape[-1] // factor
    return View(picture, torch.ones(1, side, side), "")


def augmented(picture: Tensor, factor: int, generator: torch.Generator) -> View:
    """Shrink or enlarge an image at random.

    Args:
        picture: The image, (3, S, S), in [-1, 1].
        factor: The number of pixels per latent.
        generator: The source of randomness.
    """
    size = picture.shape[-1]
    if random_choice(3, generator) < 2:
        # The mask leaves out the outermost latents, so an image needs at least three.
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
        return unchanged_view(crop, factor)._replace(prefix=LARGE[random_choice(2, generator)])
    return unchanged_view(picture, factor)


def mirrored(picture: Tensor, generator: torch.Generator) -> Tensor:
    """The image (3, S, S) or its mirror image, with equal probability."""
    return picture.flip(-1) if random_choice(2, generator) else picture


def resized(picture: Tensor, side: int) -> Tensor:
    """An image (3, S, S) in [-1, 1], resized to another side."""
    scaled = F.interpolate(picture[None], (side, side), mode="bicubic", antialias=True, align_corners=False)
    return scaled[0].clamp(-1, 1)


def random_choice(choices: int, generator: torch.Generator) -> int:
    """A random number from 0 to `choices` - 1."""
    return int(torch.randint(choices, (), generator=generator))
