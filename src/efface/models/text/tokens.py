"""Prompts to token ids, padded to one length as in every pipeline of diffusers, and the position of their subject.

The subject of a prompt is located by its last subject token. If nothing is known of a pipeline but its conventions,
the ids that the text encoder receives show it: the words of a prompt begin where its ids differ from those of the
empty prompt, and end where they agree again, compared from the end.

Shapes: n prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from itertools import count, takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn

from efface.errors import BadRequest


def token_ids(tokenizer: Any, prompts: list[str], longest: int, truncate: bool) -> tuple[Tensor, Tensor]:
    """Tokenise prompts.

    Args:
        tokenizer: A tokenizer of transformers.
        prompts: The n prompts.
        longest: Length T that ids are padded to.
        truncate: Cut prompts that are too long instead of refusing them; their end token is preserved.

    Returns:
        Padded ids, (n, T), and the number of each prompt's ids without padding, (n,).

    Raises:
        BadRequest: A prompt has more than `longest` tokens, and `truncate` is false.
    """
    rows: list[list[int]] = tokenizer(with_all_vectors(tokenizer, prompts))["input_ids"]
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


def with_all_vectors(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Prompts in which a word of textual inversion with several vectors stands for all of them, as pipelines read it.

    The tokens of such a word are `<toy>`, `<toy>_1`, `<toy>_2` and so on; users write `<toy>`.

    Args:
        tokenizer: A tokenizer of transformers.
        prompts: The prompts.
    """
    added = frozenset(map(str, tokenizer.get_added_vocab()))
    words = [word for word in sorted(added, key=len, reverse=True) if f"{word}_1" in added]
    return [_with_all_vectors(tokenizer, prompt, words, added) if words else prompt for prompt in prompts]


def _with_all_vectors(tokenizer: Any, prompt: str, words: Sequence[str], added: Collection[str]) -> str:
    tokens = set(tokenizer.tokenize(prompt))
    for word in words:
        if word in tokens:
            further = takewhile(added.__contains__, (f"{word}_{index}" for index in count(1)))
            prompt = prompt.replace(word, " ".join((word, *further)))
    return prompt


def start_tokens(tokenizer: Any) -> int:
    """Number of tokens before the words of a prompt: 1 for CLIP, 0 for T5; one end token follows the words."""
    return len(tokenizer("")["input_ids"]) - 1


def last_subject(lengths: Tensor) -> Tensor:
    """Index of the token before the end token for prompts of `lengths` (n,) ids, (n,); 0 if there is no other token."""
    return (lengths - 2).clamp(min=0)


@contextmanager
def recorded_ids(encoder: nn.Module) -> Generator[list[tuple[Tensor, Tensor | None]], None, None]:
    """Record the ids (n, T) and the attention mask (n, T), or None, of every call of a text encoder."""
    calls: list[tuple[Tensor, Tensor | None]] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if isinstance(ids, Tensor):
            calls.append((ids.cpu(), mask.cpu() if isinstance(mask, Tensor) and mask.ndim == 2 else None))

    handle = encoder.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def padded(tokens: Any) -> tuple[Tensor, Tensor | None]:
    """Tokens (n, T, d) of prompts of one or of different lengths; in the latter case also their mask (n, T)."""
    if isinstance(tokens, Tensor):
        return tokens, None
    rows = cast("list[Tensor]", tokens)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), mask


def subjects(ids: Tensor, mask: Tensor, output_mask: Tensor | None, width: int) -> tuple[Tensor, int]:
    """Positions of the last subject tokens in the output of `encode_prompt`.

    Args:
        ids: Input ids of the text encoder, (n, L); the last two rows are a single word and the empty prompt.
        mask: Input ids that are not padding, (n, L).
        output_mask: Output tokens that are not padding, (n, T), if known.
        width: Number of output tokens T.

    Returns:
        The positions, (n,), and the number of tokens before the words of a prompt.
    """
    words = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    places: list[list[int]] = []
    for index, row in enumerate(mask):
        real: list[int] = row.nonzero().flatten().tolist()
        # The output may lack the template before a prompt, and the padding.
        offset = ids.shape[1] - width
        if output_mask is not None and real and output_mask[index].any():
            offset = real[-1] - int(output_mask[index].nonzero()[-1])
        places.append([min(max(place - offset, 0), width - 1) for place in real] or [0])
    empty, last = words[-1], []
    for row, at in zip(words, places, strict=True):
        behind = _common(row[::-1], empty[::-1])
        last.append(at[len(row) - behind - 1] if behind < len(row) else at[0])
    before = min(_common(words[-2], empty), len(places[-2]) - 1)
    return torch.tensor(last), places[-2][before]


def _common(one: list[int], other: list[int]) -> int:
    """Length of the common beginning of two lists."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
