"""Token ids to the hidden states that a denoiser reads, by a CLIP text encoder of transformers.

Gradients flow through both functions. Soft tokens are embeddings in place of rows of the encoder's token table; since
transformers' CLIP takes only ids, a forward hook on the table replaces its output.

Shapes: n prompts, T tokens, d text width, k soft tokens.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.errors import BadFile, BadRequest


@dataclass(frozen=True, eq=False)
class SoftTokens:
    """Embeddings that take the place of rows of the token table.

    Attributes:
        rows: The embeddings, (k, d).
        index: For each token of each prompt the row that takes its place, or -1 for none, (n, T), on the rows' device.
    """

    rows: Tensor
    index: Tensor

    def replace(self, table_rows: Tensor) -> Tensor:
        """The output of the token table, (n, T, d), with the soft tokens in their places, (n, T, d)."""
        soft = self.rows[self.index.clamp(min=0)].to(table_rows)
        return torch.where((self.index >= 0)[..., None].to(table_rows.device), soft, table_rows)


def encode_ids(encoder: Any, ids: Tensor, clip_skip: int | None = None, soft: SoftTokens | None = None) -> Tensor:
    """Encode token ids as Stable Diffusion 1 and 2 read them: the last hidden state after the final layer norm.

    Args:
        encoder: A `CLIPTextModel`; without `clip_skip` also a `T5EncoderModel`.
        ids: Token ids, (n, T).
        clip_skip: Number of last layers to skip; the final layer norm follows the layer before them.
        soft: Embeddings in place of some tokens' own.

    Returns:
        The hidden states, (n, T, d), in the encoder's type and on its device.

    Raises:
        BadFile: The encoder has no embedding of an id.
    """
    ids = _checked(ids, encoder)
    with _soft_tokens(encoder, soft):
        if not clip_skip:
            return encoder(ids)[0]
        states = encoder(ids, output_hidden_states=True).hidden_states
    return final_norm(encoder)(states[-(clip_skip + 1)])


def encode_penultimate(encoder: Any, ids: Tensor, clip_skip: int | None = None) -> tuple[Tensor, Tensor]:
    """Encode token ids as SDXL and SD3 read them: the last hidden state but one, without the final layer norm.

    Args:
        encoder: A `CLIPTextModel` or `CLIPTextModelWithProjection`.
        ids: Token ids, (n, T).
        clip_skip: Number of further layers to skip.

    Returns:
        The hidden states, (n, T, d), and the first output of the encoder: of one with a projection, the pooled
        embedding (n, p).

    Raises:
        BadRequest: The encoder has too few layers.
        BadFile: The encoder has no embedding of an id.
    """
    output = encoder(_checked(ids, encoder), output_hidden_states=True)
    states, skip = output.hidden_states, clip_skip or 0
    if skip + 2 > len(states):
        raise BadRequest(f"clip_skip is {skip}, but a text encoder has {len(states) - 1} layers; skip fewer.")
    return states[-(skip + 2)], output[0]


def check_ids(ids: Tensor, rows: int) -> None:
    """Check that a text encoder has an embedding of every token id.

    Args:
        ids: The ids, of any shape.
        rows: The number of rows of its token table.

    Raises:
        BadFile: It has none.
    """
    if ids.numel() and (largest := int(ids.max())) >= rows:
        raise BadFile(
            f"The tokenizer writes the token {largest}, but the text encoder has {rows}; they are not of one model."
        )


def _checked(ids: Tensor, encoder: Any) -> Tensor:
    """The ids, (n, T), on the device of the encoder's input."""
    if rows := getattr(token_table(encoder), "num_embeddings", None):
        check_ids(ids, rows)
    return ids.to(input_device(encoder))


def input_device(network: Any) -> torch.device:
    """The device of a network's input; if layers are offloaded one by one, their hooks move it to the right device."""
    return torch.device("cpu") if network.device.type == "meta" else network.device


def refuse_clip_skip(clip_skip: int | None, family: str) -> None:
    """Refuse `clip_skip` for a family whose pipeline does not have it.

    Raises:
        BadRequest: `clip_skip` is not 0 or None.
    """
    if clip_skip:
        raise BadRequest(f"clip_skip is {clip_skip}, but {family} always reads its text encoder's last layer.")


def final_norm(encoder: Any) -> Any:
    """The final layer norm of a CLIP text encoder."""
    # transformers 4, and encoders with a projection, have the layers one level further down.
    return getattr(encoder, "text_model", encoder).final_layer_norm


def token_table(encoder: Any) -> Any:
    """The embedding layer of a text encoder; its weight has one row for each token of the vocabulary."""
    # T5 calls the table of its stack, which has the weight of the one that it returns.
    return getattr(getattr(encoder, "encoder", None), "embed_tokens", None) or encoder.get_input_embeddings()


@contextmanager
def _soft_tokens(encoder: Any, soft: SoftTokens | None) -> Generator[None, None, None]:
    if soft is None:
        yield
        return

    def hook(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return soft.replace(output)

    handle = token_table(encoder).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
