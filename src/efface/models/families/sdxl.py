"""Stable Diffusion XL: two CLIP text encoders, whose tokens are concatenated by channel, 768 + 1280 = 2048.

Each encoder gives its penultimate hidden state, without the final norm. The last subject token is counted by the first
tokenizer; the second one differs only in its padding. The text is read by every `attn2.to_k` and `attn2.to_v`.

The pooled embedding of the second encoder is added to the time embedding, by one map that reads the image size too.
No text edit changes it; guards replace it by that of the concept. `denoiser_text` has the tokens, and the pooled
embedding in one more row. The image is not cropped, and its original size is its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from efface.models.denoising import Conditions, with_pooled, without_pooled
from efface.models.families.cross_attention import cross_attention_maps
from efface.models.families.parts import PartsModel
from efface.models.model import TEXT
from efface.models.parameters import Parameters
from efface.models.text.embedded import Embedded
from efface.models.text.encoding import encode_penultimate
from efface.models.text.tokens import last_subject, longest_prompt, token_ids


class StableDiffusionXL(PartsModel):
    """An SDXL model with both text encoders."""

    family: ClassVar[str] = "sdxl"
    compvis_names: ClassVar[bool] = True
    unedited = ("the pooled text embedding (added_cond_kwargs['text_embeds'])",)
    pipeline_class: ClassVar[str] = "StableDiffusionXLPipeline"
    denoiser_part: ClassVar[str] = "unet"
    encoders: ClassVar[Mapping[str, tuple[str, ...]]] = {TEXT: ("text_encoder", "text_encoder_2")}
    readers: ClassVar[Mapping[str, tuple[str, ...]]] = {TEXT: ("attn2.to_k.weight", "attn2.to_v.weight")}

    @property
    def untrainable(self) -> None:
        return None

    @property
    def max_tokens(self) -> int:
        return min(longest_prompt(self._part(part)) for part in ("tokenizer", "tokenizer_2"))

    def _expected_readers(self) -> tuple[str, ...]:
        return cross_attention_maps(self.config("unet"))

    @property
    def width(self) -> int:
        return int(self.config("unet")["cross_attention_dim"])

    def _encode(self, prompts: list[str], clip_skip: int | None, truncate: bool) -> Embedded:
        ids, lengths = token_ids(self.tokenizer, prompts, self.max_tokens, truncate)
        ids_2, _ = token_ids(self._part("tokenizer_2"), prompts, self.max_tokens, truncate)
        one, _ = encode_penultimate(self.text_encoder, ids, clip_skip)
        two, _ = encode_penultimate(self._part("text_encoder_2"), ids_2, clip_skip)
        return Embedded(torch.cat([one, two], dim=-1).float().cpu(), last_subject(lengths), tuple(prompts))

    def pooled(self, prompts: Sequence[str]) -> Tensor:
        return self._pooled(prompts, truncate=False)

    @torch.no_grad()
    def _pooled(self, prompts: Sequence[str], truncate: bool) -> Tensor:
        ids, _ = token_ids(self._part("tokenizer_2"), list(prompts), self.max_tokens, truncate)
        return encode_penultimate(self._part("text_encoder_2"), ids, clip_skip=None)[1].float().cpu()

    def denoiser_text(self, embedded: Embedded) -> Tensor:
        distinct = list(dict.fromkeys(embedded.prompts))
        row = {prompt: index for index, prompt in enumerate(distinct)}
        pooled = self._pooled(distinct, truncate=True)[[row[prompt] for prompt in embedded.prompts]]
        return with_pooled(embedded.tokens, pooled)

    def predict(self, x: Tensor, t: Tensor, conditions: Conditions, parameters: Parameters | None = None) -> Tensor:
        if not conditions.others:
            width = int(self.config("text_encoder_2")["projection_dim"])
            text, pooled = without_pooled(conditions.text.expand(len(x), -1, -1), width)
            height, width = (side * self.pixels_per_latent for side in x.shape[-2:])
            sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32).expand(len(x), -1)
            conditions = Conditions(text, {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}})
        return super().predict(x, t, conditions, parameters)
