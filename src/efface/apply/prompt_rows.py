"""Which row of a batch belongs to which prompt.

A pipeline repeats each prompt for its images, side by side, and repeats all of these for the branches of guidance, the
unconditional branch first:

    rows = branches x prompts x images

The denoiser receives only the rows. But all branches denoise equal latents, and a prompt's images read the same text.

Shapes: B rows, T tokens, d text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efface.errors import BadInput


def prompt_of_row(prompts: int, sample: Tensor | None, text: Tensor, images: int | None, guided: bool | None) -> Tensor:
    """The position of the prompt that each row belongs to, (B,).

    Args:
        prompts: The number of prompts.
        sample: The noisy latents, (B, ...); None if unknown.
        text: The text, (B, T, d).
        images: The number of images of each prompt; None if unknown.
        guided: Whether guidance runs several branches at once; None if unknown. Used only for ambiguous rows.

    Raises:
        BadInput: The rows are not such a batch, or are ambiguous, or the tokens of all prompts are one sequence.
    """
    if text.ndim != 3:
        raise BadInput("This model reads the tokens of a batch as one sequence; generate its prompts one at a time.")
    rows = len(text)
    rows_per_prompt, rest = divmod(rows, prompts)
    if rest or not rows_per_prompt or (images is not None and rows_per_prompt % images):
        raise BadInput(
            f"A batch of {rows} rows is not {prompts} prompts with {images or 'any number of'} images each; "
            "give one eraser, or None, for each prompt."
        )
    branches = _branches(rows_per_prompt, sample, text, images, guided)
    return torch.arange(prompts).repeat_interleave(rows_per_prompt // branches).repeat(branches)


def _branches(
    rows_per_prompt: int, sample: Tensor | None, text: Tensor, images: int | None, guided: bool | None
) -> int:
    possible = [
        branches
        for branches in range(1, rows_per_prompt + 1)
        if rows_per_prompt % branches == 0
        and images in (None, rows_per_prompt // branches)
        and (sample is None or _repeats(sample, branches))
        and _are_equal(text, rows_per_prompt // branches)
    ]
    if not possible:
        raise BadInput(
            f"The {len(text)} rows of the batch do not repeat as guidance and images per prompt repeat them; "
            "give one eraser, or None, for each prompt, in the prompts' order."
        )
    if len(possible) > 1 and guided is not None:
        # With guidance, the smallest number of branches above one.
        possible = [branches for branches in possible if (branches > 1) == guided][:1] or possible
    if len(possible) > 1:
        raise BadInput(
            f"The {len(text)} rows of the batch can be read as guidance or as several images of a prompt; "
            "give images_per_prompt where the erasers are attached."
        )
    return possible[0]


def _repeats(sample: Tensor, branches: int) -> bool:
    parts = sample.unflatten(0, (branches, -1))
    return bool((parts == parts[:1]).all())


def _are_equal(text: Tensor, images: int) -> bool:
    groups = text.unflatten(0, (-1, images))
    return bool((groups == groups[:, :1]).all())
