"""Prompts to token ids, padded to one length, as every pipeline of diffusers does it.

Shapes: n prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

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


# Which token of a prompt is its subject, for a pipeline of which nothing but its conventions is known.
#
# The ids that the text encoder is given tell: a prompt's words begin where its ids part from the empty prompt's, and
# end
# where they meet again, seen from behind.


@contextmanager
def listening(encoder: nn.Module) -> Generator[list[tuple[Tensor, Tensor | None]], None, None]:
    """The ids and the mask of every call of a text encoder."""
    heard: list[tuple[Tensor, Tensor | None]] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if isinstance(ids, Tensor):
            heard.append((ids.cpu(), mask.cpu() if isinstance(mask, Tensor) and mask.ndim == 2 else None))

    handle = encoder.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield heard
    finally:
        handle.remove()


def padded(tokens: Any) -> tuple[Tensor, Tensor | None]:
    """Tokens (n, T, d), and of prompts that came with lengths of their own, which are no padding, (n, T)."""
    if isinstance(tokens, Tensor):
        return tokens, None
    rows = cast("list[Tensor]", tokens)
    lengths = torch.tensor([len(row) for row in rows])
    kept = torch.arange(int(lengths.max())) < lengths[:, None]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), kept


def subjects(ids: Tensor, mask: Tensor, kept: Tensor | None, width: int) -> tuple[Tensor, int]:
    """Where each prompt's last subject token is among what `encode_prompt` gave, (n,), and how many come before it.

    Args:
        ids: (n, L), what the text encoder was given; the last two rows are of a single word and of the empty prompt.
        mask: (n, L), which of them are no padding.
        kept: (n, T), which of the tokens that came out are no padding, if that is known.
        width: T.
    """
    words = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    places: list[list[int]] = []
    for index, row in enumerate(mask):
        real: list[int] = row.nonzero().flatten().tolist()
        # The template before a prompt may be gone from what comes out, and so may the padding.
        gone = ids.shape[1] - width
        if kept is not None and real and kept[index].any():
            gone = real[-1] - int(kept[index].nonzero()[-1])
        places.append([min(max(place - gone, 0), width - 1) for place in real] or [0])
    empty, last = words[-1], []
    for row, at in zip(words, places, strict=True):
        behind = _common(row[::-1], empty[::-1])
        last.append(at[len(row) - behind - 1] if behind < len(row) else at[0])
    before = min(_common(words[-2], empty), len(places[-2]) - 1)
    return torch.tensor(last), places[-2][before]


def _common(one: list[int], other: list[int]) -> int:
    """How many ids two lists begin with alike."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
