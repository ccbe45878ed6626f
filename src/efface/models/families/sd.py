"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, and a U-Net that reads it by cross-attention.

A prompt is embedded as in the pipeline: padded to the tokenizer's maximum, without attention mask, last hidden state
after the final layer norm. The text is read by every `attn2.to_k` and `attn2.to_v`, which have no bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.errors import BadRequest
from efface.models.families.cross_attention import cross_attention_maps
from efface.models.families.parts import PartsModel
from efface.models.model import TEXT
from efface.models.text.embedded import Embedded
from efface.models.text.encoding import SoftTokens, encode_ids, final_norm
from efface.models.text.plain_clip import PlainClipEncoder
from efface.models.text.plain_tokenizer import PlainTokenizer
from efface.models.text.tokens import longest_prompt, token_ids

# Keys among the parts; a value is None if the part is not supported.
_PLAIN_ENCODER, _PLAIN_TOKENIZER = "plain_text_encoder", "plain_tokenizer"


class StableDiffusion(PartsModel):
    """A Stable Diffusion model."""

    family: ClassVar[str] = "sd"
    pipeline_class: ClassVar[str] = "StableDiffusionPipeline"
    denoiser_part: ClassVar[str] = "unet"
    readers: ClassVar[Mapping[str, tuple[str, ...]]] = {TEXT: ("attn2.to_k.weight", "attn2.to_v.weight")}
    one_clip_encoder: ClassVar[bool] = True
    soft_tokens: ClassVar[bool] = True
    compvis_names: ClassVar[bool] = True

    @property
    def untrainable(self) -> None:
        return None

    @property
    def call_parameters(self) -> None:
        return None

    @property
    def max_tokens(self) -> int:
        return min(
            longest_prompt(self._tokenizing("tokenizer")), int(self.config("text_encoder")["max_position_embeddings"])
        )

    def _expected_readers(self) -> tuple[str, ...]:
        return cross_attention_maps(self.config("unet"))

    @property
    def width(self) -> int:
        return int(self.config("unet")["cross_attention_dim"])

    def _encode(self, prompts: list[str], clip_skip: int | None, truncate: bool) -> Embedded:
        ids, lengths = token_ids(self._tokenizing("tokenizer"), prompts, self.max_tokens, truncate)
        return Embedded(self._tokens(ids, clip_skip), lengths - 2, tuple(prompts))

    @torch.no_grad()
    def last_tokens(
        self, prompts: Sequence[str], *, clip_skip: int | None = None, truncate: bool = False, batch_size: int = 64
    ) -> Tensor:
        if not prompts:
            return torch.zeros(0, self.width)
        distinct = list(dict.fromkeys(prompts))
        row = {prompt: index for index, prompt in enumerate(distinct)}
        last = torch.zeros(len(distinct), self.width)
        ids, lengths = token_ids(self._tokenizing("tokenizer"), distinct, self.max_tokens, truncate)
        # CLIP is causal: the end token and the padding after it do not affect earlier tokens.
        for rows in lengths.argsort(stable=True).split(batch_size):
            tokens = self._tokens(ids[rows, : int(lengths[rows].max()) - 1], clip_skip)
            last[rows] = tokens[torch.arange(len(rows)), lengths[rows] - 2]
        return last[torch.tensor([row[prompt] for prompt in prompts], dtype=torch.long)]

    def encode(self, ids: Tensor, *, clip_skip: int | None = None, soft: SoftTokens | None = None) -> Tensor:
        self._check_layers(clip_skip)
        return encode_ids(self.text_encoder, ids, clip_skip, soft)

    def _tokens(self, ids: Tensor, clip_skip: int | None) -> Tensor:
        """Embeddings (n, T, d), float32, of ids (n, T)."""
        if (encoder := self._plain_encoder()) is None:
            return self.encode(ids, clip_skip=clip_skip).float().cpu()
        self._check_layers(clip_skip)
        return encoder(ids, clip_skip or 0).float().cpu()

    def _check_layers(self, clip_skip: int | None) -> None:
        layers = int(self.config("text_encoder")["num_hidden_layers"]) if clip_skip else 0
        if clip_skip and clip_skip >= layers:
            raise BadRequest(f"clip_skip is {clip_skip}, but the text encoder has {layers} layers; skip fewer.")

    def _plain_encoder(self) -> PlainClipEncoder | None:
        """The text encoder in plain torch, until that of transformers or the denoiser is loaded."""
        if self._denoiser_loaded or "text_encoder" in self._parts:
            self._parts.pop(_PLAIN_ENCODER, None)
            return None
        if _PLAIN_ENCODER not in self._parts:
            self._parts[_PLAIN_ENCODER] = PlainClipEncoder.of(self._disk, self.device, self.dtype)
        return self._parts[_PLAIN_ENCODER]

    def _tokenizing(self, part: str) -> Any:
        """The tokenizer without transformers, until that of transformers or the denoiser is loaded."""
        if self._denoiser_loaded or part in self._parts:
            self._parts.pop(_PLAIN_TOKENIZER, None)
            return self._part(part)
        if _PLAIN_TOKENIZER not in self._parts:
            self._parts[_PLAIN_TOKENIZER] = PlainTokenizer.of(self._disk)
        plain = self._parts[_PLAIN_TOKENIZER]
        return self._part(part) if plain is None else plain

    def words(self) -> tuple[str, ...]:
        tokenizer = self._tokenizing("tokenizer")
        pieces = [piece.removesuffix("</w>") for piece in tokenizer.get_vocab() if piece.endswith("</w>")]
        words = sorted(piece for piece in pieces if piece.isascii() and piece.isalpha())
        return tuple(word for word, row in zip(words, tokenizer(words)["input_ids"], strict=True) if len(row) == 3)

    @property
    def text_norm(self) -> Any:
        if (encoder := self._plain_encoder()) is not None:
            return encoder.norm
        return final_norm(self.text_encoder)
