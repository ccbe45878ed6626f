"""Prompts to token ids, padded to one length, as every pipeline of diffusers does it.

Shapes: n prompts, T tokens.
"""

from typing import Any

import torch
from torch import Tensor

from efface.errors import BadRequest


def token_ids(tokenizer: Any, prompts: list[str], longest: int, truncate: bool) -> tuple[Tensor, Tensor]:
    """Padded ids (n, `longest`), and how many of each prompt's are no padding, (n,).

    Raises:
        BadRequest: a prompt has more than `longest` tokens, and `truncate` is false.
    """
    rows: list[list[int]] = tokenizer(prompts)["input_ids"]
    for index, row in enumerate(rows):
        if len(row) > longest:
            if not truncate:
                raise BadRequest(
                    f"'{prompts[index][:60]}' has {len(row)} tokens with start and end; "
                    f"the model's tokenizer takes at most {longest}: say it in fewer words."
                )
            rows[index] = [*row[: longest - 1], row[-1]]
    ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids, torch.tensor([len(row) for row in rows], dtype=torch.long)


def last_subject(lengths: Tensor) -> Tensor:
    """Index of the token before the end token, (n,); of a prompt that is its end token alone, that."""
    return (lengths - 2).clamp(min=0)


def hidden_layer(encoder: Any, ids: Tensor, clip_skip: int | None) -> tuple[Tensor, Tensor]:
    """What SDXL and SD3 read of a CLIP: the last layer but one, or `clip_skip` before it (n, T, d), and what it pools.

    Raises:
        BadRequest: there are not that many layers.
    """
    found = encoder(ids.to(encoder.device), output_hidden_states=True)
    states, skip = found.hidden_states, clip_skip or 0
    if skip + 2 > len(states):
        raise BadRequest(f"clip_skip is {skip}, but a text encoder has {len(states) - 1} layers; skip fewer.")
    # The first output of an encoder with a projection is the pooled one.
    return states[-(skip + 2)], found[0]


def no_clip_skip(clip_skip: int | None, family: str) -> None:
    """Refuse a setting that the family's pipeline does not have.

    Raises:
        BadRequest: layers shall be skipped.
    """
    if clip_skip:
        raise BadRequest(f"clip_skip is {clip_skip}, but {family} always reads its text encoder's last layer.")
