"""Embedded prompts: the tokens that a denoiser reads.

Shapes: n prompts, T tokens (padding included), d text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from efface.errors import BadInput

# Largest relative difference of two embeddings of one prompt by one encoder, by the coarser of both dtypes. Measured on
# CLIP encoders of the sizes of SD 1, SD 2 and SDXL: 1.8e-3 in float16 and 1.4e-2 in bfloat16, while weights that differ
# by 2% change an embedding by 6.5e-2. The margins are twice the rounding or more, and half of such a change or less.
_MARGIN = 1e-2
_MARGIN_BFLOAT16 = 3e-2


def embedding_margin(one: Tensor, other: Tensor) -> float:
    """The relative difference up to which two embeddings of a prompt are taken for those of one text encoder.

    Embeddings computed in bfloat16 are recognised by their values, whatever dtype stores them.

    Args:
        one: Embeddings of any shape.
        other: The embeddings to compare them with, of any shape.
    """
    coarse = any(torch.equal(tokens.bfloat16().to(tokens.dtype), tokens) for tokens in (one, other))
    return _MARGIN_BFLOAT16 if coarse else _MARGIN


@dataclass(frozen=True, eq=False)
class Embedded:
    """Prompts as the denoiser reads them in one text stream.

    Attributes:
        tokens: Embeddings, (n, T, d), float32.
        last: Index of each prompt's last subject token, the one before the end token, (n,). The empty prompt has none;
            its index is that of its first token, as in the reference scripts.
        prompts: The n prompts.
        start: Number of tokens before the words of a prompt: 1 if there is a start token, else 0.
        parts: If the tokens of several text encoders are concatenated (SD3), those of each encoder, with `last`
            counted in its own tokens; else empty.
        attention_mask: Tokens that the denoiser reads, (n, T), boolean; None if it reads all.
        unnormed: The denoiser's argument, (n, T, d), if `tokens` are the output of a norm in it; None if they are it.

    Raises:
        BadInput: An index in `last` is outside the tokens.
    """

    tokens: Tensor
    last: Tensor
    prompts: tuple[str, ...]
    start: int = 1
    parts: tuple[Embedded, ...] = ()
    attention_mask: Tensor | None = None
    unnormed: Tensor | None = None

    def __post_init__(self) -> None:
        outside = (self.last < 0) | (self.last >= self.tokens.shape[1])
        if outside.any():
            prompt = self.prompts[int(outside.nonzero()[0])]
            raise BadInput(f"The tokenizer gives no subject token for '{prompt[:60]}'; its files may be incomplete.")

    @property
    def argument(self) -> Tensor:
        """The text as the denoiser receives it, (n, T, d)."""
        return self.tokens if self.unnormed is None else self.unnormed

    @property
    def sequences(self) -> tuple[Embedded, ...]:
        """The tokens of each text encoder."""
        return self.parts or (self,)

    @property
    def last_tokens(self) -> Tensor:
        """The last subject tokens, (n, d); with k sequences (n k, d), prompt by prompt."""
        rows = torch.arange(len(self.prompts))
        return torch.stack([part.tokens[rows, part.last] for part in self.sequences], dim=1).flatten(0, 1)

    def take(self, rows: Sequence[int]) -> Embedded:
        """The prompts of these rows, in this order."""
        index = torch.tensor(rows, dtype=torch.long)
        prompts = tuple(self.prompts[row] for row in rows)
        parts = tuple(part.take(rows) for part in self.parts)
        mask = None if self.attention_mask is None else self.attention_mask[index]
        unnormed = None if self.unnormed is None else self.unnormed[index]
        return Embedded(self.tokens[index], self.last[index], prompts, self.start, parts, mask, unnormed)

    @classmethod
    def stacked(cls, pieces: Sequence[Embedded]) -> Embedded:
        """Concatenate pieces; shorter sequences are padded with zeros."""
        longest = max(piece.tokens.shape[1] for piece in pieces)
        unnormed = [_padded(piece.unnormed, longest) for piece in pieces if piece.unnormed is not None]
        given = [piece.attention_mask for piece in pieces if piece.attention_mask is not None]
        masks = [pad(mask, (0, longest - mask.shape[1])) for mask in given]
        return cls(
            torch.cat([_padded(piece.tokens, longest) for piece in pieces]),
            torch.cat([piece.last for piece in pieces]),
            tuple(prompt for piece in pieces for prompt in piece.prompts),
            pieces[0].start,
            tuple(cls.stacked(parts) for parts in zip(*(piece.parts for piece in pieces), strict=True)),
            torch.cat(masks) if masks else None,
            torch.cat(unnormed) if unnormed else None,
        )


def _padded(tokens: Tensor, length: int) -> Tensor:
    return pad(tokens, (0, 0, 0, length - tokens.shape[1]))
