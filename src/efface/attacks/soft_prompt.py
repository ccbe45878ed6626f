"""A prompt with free tokens: what it says as text, and what the text encoder makes of any embeddings in their place.

Shapes: V tokens of the vocabulary, k free ones, T tokens of a prompt, d their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from efface.errors import BadRequest
from efface.models import Model
from efface.models.text.encoding import SoftTokens, token_table
from efface.models.text.tokens import token_ids

Place = Literal["prefix_k", "suffix_k", "mid_k", "insert_k"]


class SoftPrompt:
    """One prompt of a model with one CLIP text encoder.

    Args:
        model: Reads it.
        prompt: What is said beside the free tokens.
        k: How many are free.
        place: Where: before the prompt, after it, in its middle, or spread over it; or the number of the prompt's token
            that all of them stand before.
        clip_skip: How many of the text encoder's last layers are skipped.

    Raises:
        BadRequest: The prompt has no room for k more tokens.
    """

    def __init__(self, model: Model, prompt: str, k: int, place: Place | int, clip_skip: int | None = None) -> None:
        self._model, self._clip_skip = model, clip_skip
        ids, lengths = token_ids(model.tokenizer, [prompt], model.max_tokens, truncate=False)
        words: list[int] = ids[0, 1 : int(lengths[0]) - 1].tolist()
        if len(words) + k + 2 > model.max_tokens:
            raise BadRequest(f"'{prompt[:60]}' has no room for {k} more tokens; attack a shorter prompt.")
        self._prompt, self._words = prompt, words
        one = {"prefix_k": 0, "suffix_k": len(words), "mid_k": len(words) // 2}.get(str(place), place)
        spread = [len(words) * (slot + 1) // (k + 1) for slot in range(k)]
        self._gaps = [one] * k if isinstance(one, int) else spread  # the token that each free one stands before
        self.free = [1 + gap + slot for slot, gap in enumerate(self._gaps)]
        self._start, self._end = int(ids[0, 0]), int(ids[0, len(words) + 1])

    def ids(self, chosen: Sequence[int]) -> Tensor:
        """Of the prompt with k tokens chosen, (1, T)."""
        said = [self._start, *self._words, self._end]
        for place, token in zip(self.free, chosen, strict=True):
            said.insert(place, token)
        padding = [int(self._model.tokenizer.pad_token_id)] * (self._model.max_tokens - len(said))
        return torch.tensor([said + padding])

    def text(self, chosen: Sequence[int]) -> str:
        """The same as a user would type it. Pieces of words become words, so that it may be read as other tokens."""
        cuts = sorted({0, *self._gaps, len(self._words)})
        spoken = {0: self._prompt} if len(cuts) == 2 else {a: self._say(self._words[a:b]) for a, b in pairwise(cuts)}
        free = {gap: [t for t, at in zip(chosen, self._gaps, strict=True) if at == gap] for gap in self._gaps}
        parts = [part for cut in cuts for part in (self._say(free.get(cut, ())), spoken.get(cut, "")) if part]
        return " ".join(parts)

    def _say(self, ids: Sequence[int]) -> str:
        return str(self._model.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def encode(self, chosen: Sequence[int], embeddings: Tensor) -> Tensor:
        """What the denoiser reads, (1, T, d), with embeddings (k, d) for the free tokens; gradients go through."""
        ids = self.ids(chosen)
        index = torch.full_like(ids, -1)
        index[0, self.free] = torch.arange(len(self.free))
        soft = SoftTokens(embeddings, index.to(embeddings.device))
        return self._model.encode(ids, clip_skip=self._clip_skip, soft=soft)


def table(model: Model) -> Tensor:
    """The text encoder's table of token embeddings, (V, d)."""
    return token_table(model.text_encoder).weight.detach().float()


def allowed(model: Model) -> Tensor:
    """Which tokens of the vocabulary are words or parts of words, (V,): no start, end or padding."""
    found = torch.ones(len(table(model)), dtype=torch.bool)
    found[[token for token in model.tokenizer.all_special_ids if token < len(found)]] = False
    return found
