"""What prompts become: the tokens that the denoiser reads.

Shapes: n prompts, T tokens (padding included), d text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class Embedded:
    """Prompts as the denoiser reads them in one text stream.

    Attributes:
        tokens: (n, T, d), float32.
        last: (n,), index of each prompt's last subject token: the one before the end token. The empty prompt has
            none, and the index falls on its first token, as it does in the reference scripts.
        prompts: the n prompts.
        start: how many tokens stand before a prompt's words: CLIP's start token, or none.
        parts: where text encoders put their tokens one after the other (SD3), each one's, with `last` in its own
            tokens; else empty.
        kept: (n, T), which tokens the denoiser's attention mask lets it read; None where it reads all.
    """

    tokens: Tensor
    last: Tensor
    prompts: tuple[str, ...]
    start: int = 1
    parts: tuple[Embedded, ...] = ()
    kept: Tensor | None = None

    @property
    def sequences(self) -> tuple[Embedded, ...]:
        """Each text encoder's tokens."""
        return self.parts or (self,)

    @property
    def last_tokens(self) -> Tensor:
        """The last subject tokens, (n, d); with k sequences (n k, d), each prompt's one after the other."""
        rows = torch.arange(len(self.prompts))
        return torch.stack([part.tokens[rows, part.last] for part in self.sequences], dim=1).flatten(0, 1)

    def take(self, rows: Sequence[int]) -> Embedded:
        """Some of the prompts, in this order."""
        index = torch.tensor(rows, dtype=torch.long)
        prompts = tuple(self.prompts[row] for row in rows)
        parts = tuple(part.take(rows) for part in self.parts)
        kept = None if self.kept is None else self.kept[index]
        return Embedded(self.tokens[index], self.last[index], prompts, self.start, parts, kept)

    @classmethod
    def stacked(cls, pieces: Sequence[Embedded]) -> Embedded:
        """The prompts of all pieces; shorter pieces are filled up with zeros."""
        longest = max(piece.tokens.shape[1] for piece in pieces)
        tokens = [pad(piece.tokens, (0, 0, 0, longest - piece.tokens.shape[1])) for piece in pieces]
        kept = [pad(piece.kept, (0, longest - piece.kept.shape[1])) for piece in pieces if piece.kept is not None]
        return cls(
            torch.cat(tokens),
            torch.cat([piece.last for piece in pieces]),
            tuple(prompt for piece in pieces for prompt in piece.prompts),
            pieces[0].start,
            tuple(cls.stacked(parts) for parts in zip(*(piece.parts for piece in pieces), strict=True)),
            torch.cat(kept) if kept else None,
        )
