"""Stable Diffusion 3 and 3.5: two CLIP text encoders, a T5, and a transformer that reads them in two streams.

- `text`: the tokens of both CLIPs (penultimate hidden state), concatenated by channel and padded with zeros to the
  width of T5, followed by the tokens of T5. A prompt has a last subject token in both sequences. `context_embedder`
  reads all of them.
- `pooled`: the projected end tokens of both CLIPs, concatenated. `time_text_embed.text_embedder.linear_1` reads them.

Both maps have a bias. The input of the maps is edited, W (I + L R^T) e + b, so that the bias counts once.
T5 is optional; without it, its tokens are zeros and have no subject.

`denoiser_text` has all tokens, and the pooled vector in one more row. The transformer predicts the velocity of
rectified flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from efface.models.denoising import Conditions, with_pooled, without_pooled
from efface.models.families.parts import TwoStreamModel
from efface.models.flow import NoiseLevels
from efface.models.model import POOLED, TEXT
from efface.models.parameters import Parameters
from efface.models.text.embedded import Embedded
from efface.models.text.encoding import encode_penultimate, input_device
from efface.models.text.tokens import last_subject, longest_prompt, token_ids

T5_TOKENS = 256  # the default of the pipeline
_CLIPS = ("text_encoder", "text_encoder_2")


class StableDiffusion3(TwoStreamModel):
    """An SD3 model."""

    family: ClassVar[str] = "sd3"
    pipeline_class: ClassVar[str] = "StableDiffusion3Pipeline"
    encoders: ClassVar[Mapping[str, tuple[str, ...]]] = {TEXT: (*_CLIPS, "text_encoder_3"), POOLED: _CLIPS}
    noise_levels: NoiseLevels = "scheduler"

    @property
    def untrainable(self) -> None:
        return None

    @property
    def has_text_encoder(self) -> bool:
        return all(self._has(part) for part in _CLIPS)

    @property
    def max_tokens(self) -> int:
        return longest_prompt(self.tokenizer)

    def denoiser_text(self, embedded: Embedded) -> Tensor:
        pooled = self.reading(POOLED).embed(embedded.prompts, truncate=True)
        return with_pooled(embedded.tokens, pooled.tokens[:, 0])

    def predict(self, x: Tensor, t: Tensor, conditions: Conditions, parameters: Parameters | None = None) -> Tensor:
        if not conditions.others:
            text, pooled = without_pooled(conditions.text.expand(len(x), -1, -1), self.reading(POOLED).width)
            conditions = Conditions(text, {"pooled_projections": pooled})
        return super().predict(x, t.expand(len(x)), conditions, parameters)

    def _encode(self, prompts: list[str], clip_skip: int | None, truncate: bool) -> Embedded:
        layers: list[Tensor] = []
        pooled: list[Tensor] = []
        lengths = torch.zeros(0)
        for encoder, tokenizer in zip(_CLIPS, ("tokenizer", "tokenizer_2"), strict=True):
            ids, lengths = token_ids(self._part(tokenizer), prompts, self.max_tokens, truncate)
            layer, vector = encode_penultimate(self._part(encoder), ids, clip_skip)
            layers.append(layer.float().cpu())
            pooled.append(vector.float().cpu())
        names = tuple(prompts)
        if self.stream == POOLED:
            vectors = torch.cat(pooled, dim=-1)[:, None]
            return Embedded(vectors, torch.zeros(len(prompts), dtype=torch.long), names, start=0)
        words = torch.cat(layers, dim=-1)
        clip = Embedded(pad(words, (0, self.width - words.shape[-1])), last_subject(lengths), names)
        if not self._has("text_encoder_3"):
            zeros = torch.zeros(len(prompts), T5_TOKENS, self.width)
            return Embedded(torch.cat([clip.tokens, zeros], dim=1), clip.last, names, parts=(clip,))
        t5 = self._t5(prompts, truncate)
        return Embedded(torch.cat([clip.tokens, t5.tokens], dim=1), clip.last, names, parts=(clip, t5))

    def _t5(self, prompts: list[str], truncate: bool) -> Embedded:
        encoder: Any = self._part("text_encoder_3")
        ids, lengths = token_ids(self._part("tokenizer_3"), prompts, T5_TOKENS, truncate)
        tokens = encoder(ids.to(input_device(encoder)))[0].float().cpu()
        return Embedded(tokens, last_subject(lengths), tuple(prompts), start=0)
