"""FLUX.1: a T5 and a CLIP text encoder, and a transformer that reads their output in two streams.

- `text`: the 512 tokens of T5 (256 for the distilled schnell; fewer if the tokenizer's maximum is lower), without
  attention mask, so that padding is read too.
  T5 has no start token: the words of a prompt come first. `context_embedder` reads them.
- `pooled`: CLIP's end token after the final layer norm. `time_text_embed.text_embedder.linear_1` reads it.

Both maps have a bias. UCE's script for FLUX uses a guide's output, including the bias, as the target of a fit without
bias, so that the bias counts twice. Here the input of the maps is edited, W (I + L R^T) e + b, and it counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from efface.models.families.parts import TwoStreamModel
from efface.models.model import POOLED, TEXT
from efface.models.text.embedded import Embedded
from efface.models.text.encoding import final_norm, refuse_clip_skip
from efface.models.text.tokens import last_subject, token_ids


class Flux(TwoStreamModel):
    """A FLUX.1 model."""

    family: ClassVar[str] = "flux"
    pipeline_class: ClassVar[str] = "FluxPipeline"
    encoders: ClassVar[Mapping[str, tuple[str, ...]]] = {TEXT: ("text_encoder_2",), POOLED: ("text_encoder",)}

    @property
    def max_tokens(self) -> int:
        return int(self.tokenizer.model_max_length) if self.stream == POOLED else self._t5_tokens

    @property
    def _t5_tokens(self) -> int:
        longest = 512 if self._distilled_guidance else 256
        return min(longest, int(self._part("tokenizer_2").model_max_length))

    @property
    def _distilled_guidance(self) -> bool:
        return bool(self._config("transformer").get("guidance_embeds"))

    @property
    def guidance_argument(self) -> str:
        # Without an embedding of the guidance scale, only classifier-free guidance has an effect.
        return "guidance_scale" if self._distilled_guidance else "true_cfg_scale"

    @property
    def pipeline_arguments(self) -> Mapping[str, int]:
        # The pipeline's own default is 512 tokens, also for a transformer that was trained on fewer.
        return {"max_sequence_length": self._t5_tokens, **super().pipeline_arguments}

    def _encode(self, prompts: list[str], clip_skip: int | None, truncate: bool) -> Embedded:
        refuse_clip_skip(clip_skip, "FLUX")
        pooled = self.stream == POOLED
        encoder: Any = self._part("text_encoder" if pooled else "text_encoder_2")
        tokenizer = self._part("tokenizer" if pooled else "tokenizer_2")
        # If a prompt is too long for CLIP, the pipeline pools its beginning; T5 reads up to its own limit.
        ids, lengths = token_ids(tokenizer, prompts, self.max_tokens, truncate or pooled)
        output = encoder(ids.to(encoder.device))
        if pooled:
            last = torch.zeros(len(prompts), dtype=torch.long)
            return Embedded(output.pooler_output[:, None].float().cpu(), last, tuple(prompts), start=0)
        return Embedded(output[0].float().cpu(), last_subject(lengths), tuple(prompts), start=0)

    @property
    def text_norm(self) -> Any:
        return final_norm(self.text_encoder) if self.stream == POOLED else None
