"""A prompt with free tokens: its text for chosen tokens, and its encoding with any embeddings in their place.

Shapes: V tokens of the vocabulary, k free tokens, T tokens of a prompt, d text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from efface.attacks.base import Target
from efface.errors import BadRequest
from efface.models import Model
from efface.models.text.encoding import SoftTokens, token_table
from efface.models.text.tokens import start_tokens, token_ids

Place = Literal["prefix_k", "suffix_k", "mid_k", "insert_k"]


class SoftPrompt:
    """One prompt of a model with soft tokens.

    Args:
        model: The model.
        prompt: The prompt without the free tokens.
        k: Number of free tokens.
        place: Their place: before the prompt, after it, in its middle, or spread over it; or the index of the prompt's
            token that they precede, or that each of them precedes.
        clip_skip: Number of the text encoder's last layers to skip.

    Raises:
        BadRequest: The prompt has no room for k more tokens.
    """

    def __init__(
        self, model: Model, prompt: str, k: int, place: Place | int | Sequence[int], clip_skip: int | None = None
    ) -> None:
        self._model, self._clip_skip = model, clip_skip
        ids, lengths = token_ids(model.tokenizer, [prompt], model.max_tokens, truncate=False)
        first = start_tokens(model.tokenizer)
        words: list[int] = ids[0, first : int(lengths[0]) - 1].tolist()
        if first + len(words) + k + 1 > model.max_tokens:
            raise BadRequest(f"'{prompt[:60]}' has no room for {k} more tokens; attack a shorter prompt.")
        self._prompt, self._words = prompt, words
        named = {"prefix_k": 0, "suffix_k": len(words), "mid_k": len(words) // 2}
        one = place if isinstance(place, int) else named.get(str(place))
        spread = [len(words) // (k + 1) * (slot + 1) for slot in range(k)]  # equal distances, as in the reference
        each = spread if isinstance(place, (str, int)) else list(place)
        self._gaps = [one] * k if isinstance(one, int) else each  # the index of the token that each free one precedes
        self.free = [first + gap + slot for slot, gap in enumerate(self._gaps)]
        self._start: list[int] = ids[0, :first].tolist()
        self._end = int(ids[0, first + len(words)])

    def ids(self, chosen: Sequence[int]) -> Tensor:
        """Token ids of the prompt with k chosen tokens, (1, T)."""
        row = [*self._start, *self._words, self._end]
        for place, token in zip(self.free, chosen, strict=True):
            row.insert(place, token)
        padding = [int(self._model.tokenizer.pad_token_id)] * (self._model.max_tokens - len(row))
        return torch.tensor([row + padding])

    def text(self, chosen: Sequence[int]) -> str:
        """The same as a user would type it; a piece of a word becomes a word, so it may be tokenised differently."""
        cuts = sorted({0, *self._gaps, len(self._words)})
        pieces = {0: self._prompt} if len(cuts) == 2 else {a: self._decode(self._words[a:b]) for a, b in pairwise(cuts)}
        free = {gap: [t for t, at in zip(chosen, self._gaps, strict=True) if at == gap] for gap in self._gaps}
        parts = [part for cut in cuts for part in (self._decode(free.get(cut, ())), pieces.get(cut, "")) if part]
        return " ".join(parts)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._model.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def encode(self, chosen: Sequence[int], embeddings: Tensor) -> Tensor:
        """The text embedding (1, T, d) with embeddings (k, d) for the free tokens, to which gradients flow."""
        ids = self.ids(chosen)
        index = torch.full_like(ids, -1)
        index[0, self.free] = torch.arange(len(self.free))
        soft = SoftTokens(embeddings, index.to(embeddings.device))
        return self._model.encode(ids, clip_skip=self._clip_skip, soft=soft)


def with_room(target: Target, k: int, place: Place) -> dict[str, SoftPrompt]:
    """The prompts of a target that can take k more tokens, each with its free tokens.

    Args:
        target: What is attacked.
        k: Number of free tokens.
        place: Their place.

    Raises:
        RuntimeError: No prompt can.
    """
    texts: dict[str, SoftPrompt] = {}
    for prompt in target.prompts:
        with suppress(BadRequest):
            texts[prompt] = SoftPrompt(target.model, prompt, k, place, target.clip_skip)
    if not texts:
        raise RuntimeError(f"no prompt has room for {k} more tokens")
    return texts


def edited_table(target: Target) -> Tensor:
    """The edited text encoder's table of token embeddings, a copy, (V, d), float32, on the CPU.

    An eraser may edit rows of it. A prompt produces the edited rows alone, so a search must choose among these.
    """
    with target.eraser.attach(target.model):
        return token_table(target.model.text_encoder).weight.detach().float().cpu().clone()


def allowed(model: Model) -> Tensor:
    """The tokens of the vocabulary that are words or parts of words, not start, end or padding; (V,), boolean."""
    mask = torch.ones(len(token_table(model.text_encoder).weight), dtype=torch.bool)
    mask[[token for token in model.tokenizer.all_special_ids if token < len(mask)]] = False
    return mask
