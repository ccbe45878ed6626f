"""Which row of a batch belongs to which prompt.

A pipeline repeats every prompt over its images, side by side, and all of that over the branches of guidance, the
unconditional one first:

    rows = branches x prompts x images

The denoiser sees the rows alone. But all branches denoise the same latents, and a prompt's images read the same text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efface.errors import BadInput


def owners(prompts: int, sample: Tensor, text: Tensor, images: int | None, guided: bool | None) -> Tensor:
    """The prompt of each row, (rows,).

    Args:
        prompts: how many there are.
        sample: noisy latents, (rows, ...).
        text: (rows, T, d).
        images: how many of each prompt, if that is known.
        guided: whether guidance runs several branches at once, if that is known; decides only what the rows leave open.

    Raises:
        BadInput: the rows are no such batch, or could be two different ones.
    """
    rows = len(text)
    each, rest = divmod(rows, prompts)
    if rest or not each or (images is not None and each % images):
        raise BadInput(
            f"A batch of {rows} rows is not {prompts} prompts with {images or 'any number of'} images each; "
            "give one eraser, or None, for each prompt."
        )
    branches = _branches(each, sample, text, images, guided)
    return torch.arange(prompts).repeat_interleave(each // branches).repeat(branches)


def _branches(each: int, sample: Tensor, text: Tensor, images: int | None, guided: bool | None) -> int:
    possible = [
        branches
        for branches in range(1, each + 1)
        if each % branches == 0
        and images in (None, each // branches)
        and _repeats(sample, branches)
        and _are_alike(text, each // branches)
    ]
    if not possible:
        raise BadInput(
            f"The {len(text)} rows of the batch do not repeat as guidance and images per prompt repeat them; "
            "give one eraser, or None, for each prompt, in the prompts' order."
        )
    if len(possible) > 1 and guided is not None:
        # Where guidance runs, the fewest branches that it can have: two.
        possible = [branches for branches in possible if (branches > 1) == guided][:1] or possible
    if len(possible) > 1:
        raise BadInput(
            f"The {len(text)} rows of the batch can be read as guidance or as several images of a prompt; "
            "say images_per_prompt where the erasers are attached."
        )
    return possible[0]


def _repeats(sample: Tensor, branches: int) -> bool:
    parts = sample.unflatten(0, (branches, -1))
    return bool((parts == parts[:1]).all())


def _are_alike(text: Tensor, images: int) -> bool:
    groups = text.unflatten(0, (-1, images))
    return bool((groups == groups[:, :1]).all())
