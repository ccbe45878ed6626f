"""The trained weights of concept ablation, and where its gradients stop.

Shapes: b prompts, T tokens, d text width; k words, V in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from efface.edits.kinds import WeightEdit
from efface.errors import BadInput, BadRequest
from efface.methods.trained.denoiser_parameters import ATTENTION, has_cross_attention
from efface.methods.training.weights import Weights
from efface.models.model import Model
from efface.models.text.encoding import SoftTokens, token_table
from efface.models.text.tokens import token_ids

ParameterGroup = Literal["cross-attn", "attn", "full-weight", "embedding"]

_CACHED = 1000  # prompts, a quarter of a gigabyte for Stable Diffusion 1

_PIECES: dict[ParameterGroup, tuple[str, ...]] = {
    "cross-attn": ("attn2.to_k", "attn2.to_v"),
    "attn": ("to_q", "to_k", "to_v", "to_out"),
    "full-weight": ("",),
}
_PIECES_OF_JOINT_ATTENTION: dict[ParameterGroup, tuple[str, ...]] = {
    "cross-attn": (".attn.add_k_proj", ".attn.add_v_proj"),
    "attn": ATTENTION,
    "full-weight": ("",),
}


def group_parameters(denoiser: nn.Module, group: ParameterGroup) -> tuple[str, ...]:
    """The names of the denoiser's parameters in a group.

    In a transformer with joint attention, `cross-attn` is what reads the text's keys and values.

    Raises:
        BadRequest: The denoiser has no such parameter.
    """
    pieces = (_PIECES if has_cross_attention(denoiser) else _PIECES_OF_JOINT_ATTENTION)[group]
    names = tuple(name for name, _ in denoiser.named_parameters() if any(piece in name for piece in pieces))
    if not names:
        raise BadRequest(f"parameter_group={group} selects no parameter of this model; give attn or full-weight.")
    return names


class Reader(Protocol):
    """Converts prompts to text embeddings in two steps: `prepare` for the batch, `read` in the loss."""

    def prepare(self, prompts: Sequence[str]) -> Tensor:
        """A tensor with one row per prompt, (b, ...)."""
        ...

    def read(self, prepared: Tensor) -> Tensor:
        """The text that the denoiser reads, (b, T, d), for prepared prompts (b, ...)."""
        ...


class BaseText:
    """The text embeddings of the base. Prompts that are too long are truncated, as in the published codes.

    The last embeddings are cached. Each prompt is embedded alone: the rounding depends on the other prompts of a batch,
    which differ when a training is resumed.

    Args:
        model: The base.
        clip_skip: The number of last layers of the text encoder to skip.
    """

    def __init__(self, model: Model, clip_skip: int | None) -> None:
        self._model, self._skip = model, clip_skip
        self._cached = lru_cache(_CACHED)(self._embedded)

    def prepare(self, prompts: Sequence[str]) -> Tensor:
        return torch.cat([self._cached(prompt) for prompt in prompts])

    def _embedded(self, prompt: str) -> Tensor:
        embedded = self._model.embed([prompt], clip_skip=self._skip, truncate=True)
        return self._model.denoiser_text(embedded).to(self._model.device)

    def read(self, prepared: Tensor) -> Tensor:
        return prepared


class TokenRows(Weights):
    """The rows (k, d) of the text encoder's embedding table for the tokens of some words, trained as float32 copies.

    Args:
        model: The model with the text encoder.
        words: The words.
        clip_skip: The number of last layers of the text encoder to skip.

    Raises:
        BadInput: The text is not the output of one CLIP text encoder.
    """

    def __init__(self, model: Model, words: Sequence[str], clip_skip: int | None) -> None:
        super().__init__()
        if not model.one_clip_encoder:
            raise BadInput(
                f"parameter_group=embedding trains one CLIP text encoder; {model.name} reads text differently."
            )
        rows: list[list[int]] = model.tokenizer(list(words), add_special_tokens=False)["input_ids"]
        table: Tensor = token_table(model.text_encoder).weight
        self._ids = torch.tensor(sorted({token for row in rows for token in row}), device=table.device)
        self._base: Tensor = table.detach()[self._ids].float()
        self.rows = nn.Parameter(self._base.clone())
        # In a tuple, since an attribute that is a module would be trained too.
        self._model, self._skip = (model,), clip_skip or 0

    def forward(self) -> dict[str, Tensor]:
        return {}

    def prepare(self, prompts: Sequence[str]) -> Tensor:
        """The token ids of the prompts, (b, T)."""
        (model,) = self._model
        return token_ids(model.tokenizer, list(prompts), model.max_tokens, truncate=True)[0].to(self._ids.device)

    def read(self, prepared: Tensor) -> Tensor:
        """The text embeddings of token ids (b, T) with the trained rows, (b, T, d)."""
        (model,) = self._model
        is_row = prepared[..., None] == self._ids  # (b, T, k)
        index = is_row.long().argmax(-1).where(is_row.any(-1), -1)
        return model.encode(prepared, clip_skip=self._skip, soft=SoftTokens(self.rows, index)).float()

    @torch.no_grad()
    def add(self, edits: Sequence[WeightEdit]) -> list[str]:
        """Add changes to the trained rows, and return the names of the parameters that have other changes."""
        parameter, weight = self._table()
        others: list[str] = []
        for edit in edits:
            change = edit.value(weight.shape).to(self.rows) if edit.parameter == parameter else None
            if change is not None:
                self.rows.add_(change[self._ids])
                change = change.index_fill(0, self._ids, 0)
            if change is None or change.any():
                others.append(edit.parameter)
        return others

    @torch.no_grad()
    def edits(self) -> tuple[WeightEdit, ...]:
        parameter, weight = self._table()
        up = torch.zeros(len(weight), len(self._ids))
        up[self._ids.cpu(), torch.arange(len(self._ids))] = 1
        return (WeightEdit(parameter, up=up, down=(self.rows - self._base).cpu().contiguous()),)

    def _table(self) -> tuple[str, Tensor]:
        """The full name of the embedding table, and its values (V, d)."""
        (model,) = self._model
        weight: Tensor = token_table(model.text_encoder).weight
        (name,) = [name for name, parameter in model.text_encoder.named_parameters() if parameter is weight]
        return f"text_encoder.{name}", weight


@contextmanager
def start_detached(denoiser: nn.Module) -> Generator[None, None, None]:
    """A context without gradient through the keys and values of CLIP's start token, which all prompts have."""
    handles = [
        module.register_forward_hook(_without_start)
        for name, module in denoiser.named_modules()
        if name.endswith(_PIECES["cross-attn"])
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _without_start(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)
