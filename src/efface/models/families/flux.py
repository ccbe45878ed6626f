"""FLUX.1: a T5 and a CLIP text encoder, and a transformer that reads them in two streams.

- `text`: T5's tokens, 512 of them (256 for the distilled schnell), without attention mask, so that padding counts.
  T5 has no start token: a prompt's words come first. `context_embedder` reads them.
- `pooled`: CLIP's end token after the final layer norm. `time_text_embed.text_embedder.linear_1` reads it.

Both maps have a bias. UCE's script for FLUX takes a guide's output, bias included, as the target of a fit that knows no
bias, so that it counts twice. Here an edit is of what the maps read, W (I + L R^T) e + b, and the bias counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from efface.models.families.parts import PartsModel
from efface.models.model import POOLED, TEXT
from efface.models.text.embedded import Embedded
from efface.models.text.encoding import final_norm, refuse_clip_skip
from efface.models.text.tokens import last_subject, token_ids


class Flux(PartsModel):
    """A FLUX.1 model."""

    family: ClassVar[str] = "flux"
    streams: ClassVar[Mapping[str, str]] = {TEXT: "encoder_hidden_states", POOLED: "pooled_projections"}
    pipeline_class: ClassVar[str] = "FluxPipeline"
    encoders: ClassVar[Mapping[str, tuple[str, ...]]] = {TEXT: ("text_encoder_2",), POOLED: ("text_encoder",)}
    readers: ClassVar[Mapping[str, tuple[str, ...]]] = {
        TEXT: ("context_embedder.weight",),
        POOLED: ("time_text_embed.text_embedder.linear_1.weight",),
    }

    @property
    def max_tokens(self) -> int:
        if self.stream == POOLED:
            return int(self.tokenizer.model_max_length)
        return 512 if self._config("transformer").get("guidance_embeds") else 256

    @property
    def width(self) -> int:
        width = {TEXT: "joint_attention_dim", POOLED: "pooled_projection_dim"}[self.stream]
        return int(self._config("transformer")[width])

    def _encode(self, prompts: list[str], clip_skip: int | None, truncate: bool) -> Embedded:
        refuse_clip_skip(clip_skip, "FLUX")
        pooled = self.stream == POOLED
        encoder: Any = self._part("text_encoder" if pooled else "text_encoder_2")
        tokenizer = self._part("tokenizer" if pooled else "tokenizer_2")
        # Of a prompt that is too long for CLIP, the pipeline pools what fits; T5 reads it to its own limit.
        ids, lengths = token_ids(tokenizer, prompts, self.max_tokens, truncate or pooled)
        found = encoder(ids.to(encoder.device))
        if pooled:
            last = torch.zeros(len(prompts), dtype=torch.long)
            return Embedded(found.pooler_output[:, None].float().cpu(), last, tuple(prompts), start=0)
        return Embedded(found[0].float().cpu(), last_subject(lengths), tuple(prompts), start=0)

    @property
    def text_norm(self) -> Any:
        return final_norm(self.text_encoder) if self.stream == POOLED else None
