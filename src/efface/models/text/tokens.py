"""Prompts to token ids, padded to one length as in every pipeline of diffusers, and the position of their subject.

The subject of a prompt is located by its last subject token. If nothing is known of a pipeline but its conventions,
the ids that the text encoder receives show it: the words of a prompt begin where its ids differ from those of the
empty prompt, and end where they agree again, compared from the end.

Shapes: n prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn

from efface.errors import BadInput, BadRequest

_ENDLESS = 1_000_000  # transformers sets 1e30 if there is no limit


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
                    f"the model's tokenizer takes at most {longest}: use fewer words."
                )
            rows[index] = [*row[: longest - 1], row[-1]]
    ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids, torch.tensor([len(row) for row in rows], dtype=torch.long)


def longest_prompt(tokenizer: Any) -> int:
    """The length that a pipeline pads prompts to, in tokens.

    Raises:
        BadInput: The tokenizer has none, so that the pipeline does not pad them.
    """
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, (int, float)) or not 0 < longest <= _ENDLESS:
        raise BadInput(
            "The tokenizer has no model_max_length that is a number of tokens, so that prompts are not padded; set it "
            "in tokenizer_config.json (77 for CLIP)."
        )
    return int(longest)


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


def words_of(tokenizer: Any, prompt: str) -> int:
    """Number of tokens of a prompt's words, without start and end."""
    return len(tokenizer(with_all_vectors(tokenizer, [prompt])[0])["input_ids"]) - start_tokens(tokenizer) - 1


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


@dataclass(frozen=True, eq=False)
class Subjects:
    """Where the subjects of n prompts are.

    Attributes:
        last: Positions of the last subject tokens in the text, (n,).
        inputs: Their positions in the input of the text encoder, (n,).
        start: Number of tokens of the text before the words of a prompt.
    """

    last: Tensor
    inputs: Tensor
    start: int


def subjects(ids: Tensor, mask: Tensor, offsets: Sequence[int], width: int) -> Subjects:
    """Positions of the last subject tokens in the input of a text encoder, and in the output of `encode_prompt`.

    Args:
        ids: Input ids of the text encoder, (n, L); the last two rows are a single word and the empty prompt.
        mask: Input ids that are not padding, (n, L).
        offsets: For each prompt the position in the input less the one in the output.
        width: Number of output tokens T.
    """
    words = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    sources: list[list[int]] = [row.nonzero().flatten().tolist() or [0] for row in mask]
    places = [
        [min(max(place - offset, 0), width - 1) for place in row] for row, offset in zip(sources, offsets, strict=True)
    ]
    empty, chosen = words[-1], []
    for row in words:
        behind = _common(row[::-1], empty[::-1])
        chosen.append(len(row) - behind - 1 if behind < len(row) else 0)
    before = min(_common(words[-2], empty), len(places[-2]) - 1)
    last = [at[index] for at, index in zip(places, chosen, strict=True)]
    inputs = [at[index] for at, index in zip(sources, chosen, strict=True)]
    return Subjects(torch.tensor(last), torch.tensor(inputs), places[-2][before])


def offsets_by_masks(mask: Tensor, output_mask: Tensor) -> list[int]:
    """For each prompt the offset of `subjects` if its last token in the input is its last one in the output.

    Args:
        mask: Input ids that are not padding, (n, L).
        output_mask: Output tokens that are read, (n, T).
    """
    ends = [[int(row.nonzero()[-1]) if row.any() else 0 for row in rows] for rows in (mask, output_mask)]
    return [end - output_end for end, output_end in zip(*ends, strict=True)]


def joined_calls(
    calls: Sequence[tuple[Tensor, Tensor | None]], rows: int, padding: int
) -> tuple[Tensor, Tensor] | None:
    """The ids (n, L) and the mask (n, L) of a text encoder's first calls, which may be one for each prompt.

    Args:
        calls: The calls of `recorded_ids`.
        rows: The number of prompts n.
        padding: The id of padding, for calls without a mask.

    Returns:
        The ids and the mask, or None if the first calls are not those of the prompts.
    """
    taken: list[Tensor] = []
    masks: list[Tensor] = []
    for ids, mask in calls:
        if len(taken) < rows:
            taken += list(ids)
            masks += list(ids != padding if mask is None else mask.bool())
    if len(taken) != rows:
        return None
    joined = nn.utils.rnn.pad_sequence(taken, batch_first=True, padding_value=padding)
    return joined, nn.utils.rnn.pad_sequence(masks, batch_first=True)


def _common(one: list[int], other: list[int]) -> int:
    """Length of the common beginning of two lists."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
