"""Zero-shot judge: which of several texts does CLIP find closest to the image?

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020;
https://github.com/openai/CLIP. The score of a concept c among alternatives A is

    p(c | image) = exp(s cos(f(image), g(c))) / sum_{a in {c} u A} exp(s cos(f(image), g(a)))

with f and g CLIP's unit-length features and s its learned scale. Without alternatives a softmax has nothing to choose
from, so "something else" is always one of them. Images go through the PIL processor whatever else is installed, since
torchvision's gives other pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from efface.errors import BadInput
from efface.judges.base import JudgeEntry, Pixels, Scores

NOTHING = "something else"
_BATCH = 64


class ClipJudge:
    """An open world: any concept that can be said.

    Args:
        model: A transformers `CLIPModel`.
        tokenizer: Its tokenizer.
        processor: Its image processor, with PIL.
        version: Of the weights.
        alternatives: Concepts to choose among, besides "something else"; none means the others asked for at once.
        template: Makes a text of a concept.
    """

    name = "clip"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any,
        version: str,
        alternatives: Sequence[str] = (),
        template: str = "a {}",
    ) -> None:
        self.version = f"{version}, '{template}', PIL"
        self._model, self._tokenizer, self._processor = model.eval().requires_grad_(False), tokenizer, processor
        self._alternatives = tuple(dict.fromkeys(alternatives))
        self._template = template

    def knows(self, concept: str) -> bool:
        return bool(concept.strip())

    def peers(self, concept: str) -> tuple[str, ...]:
        return tuple(name for name in self._alternatives if not self.same(name, concept))

    def same(self, one: str, other: str) -> bool:
        return one.casefold().split() == other.casefold().split()

    def threshold(self, concept: str) -> float:
        return 0.5

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        texts = list(dict.fromkeys((*concepts, *(self._alternatives or concepts))))
        logits = self.logits(images, [*(self._template.format(text) for text in texts), NOTHING])
        columns: list[Scores] = []
        for concept in concepts:
            same = [i for i, text in enumerate(texts) if self.same(text, concept)]
            rivals = [i for i in range(len(texts)) if i not in same]
            chosen = torch.cat([logits[:, same[:1]], logits[:, rivals], logits[:, -1:]], 1)
            columns.append(chosen.softmax(1)[:, 0].numpy())
        return np.stack(columns, axis=1)

    @torch.no_grad()
    def logits(self, images: Pixels, texts: Sequence[str]) -> Tensor:
        """s cos(f(image), g(text)), (n, m), float64."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        g = _unit(self._model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask))
        parts: list[Tensor] = []
        for start in range(0, len(images), _BATCH):
            pixels = self._processor(list(images[start : start + _BATCH]), return_tensors="pt")["pixel_values"]
            parts.append(_unit(self._model.get_image_features(pixel_values=pixels)) @ g.T)
        return torch.cat(parts) * self._model.logit_scale.double().exp()


def _unit(features: Any) -> Tensor:
    """Unit-length features, float64; transformers 5 gives them as `pooler_output`, 4 as they are."""
    tensor: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return F.normalize(tensor.double(), dim=-1)


def open_clip(weights: str, alternatives: Sequence[str] = ()) -> ClipJudge:
    """A judge from a folder or hub id of a `CLIPModel`; nothing is the embedded model's own CLIP.

    Raises:
        BadInput: There is no such model, or it is not CLIP.
    """
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    if not weights:
        from efface.judges.emoji_clip import embedded_clip

        return ClipJudge(*embedded_clip(), version="emoji", alternatives=alternatives)
    try:
        model = CLIPModel.from_pretrained(weights, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(weights)
        processor = AutoImageProcessor.from_pretrained(weights, backend="pil")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"Cannot open a CLIP model at '{weights}': {reason}") from error
    return ClipJudge(model, tokenizer, processor, weights, alternatives)


ENTRY = JudgeEntry(
    name="clip",
    summary="zero-shot choice by any CLIP (clip:FOLDER or clip:HUB-ID; plain, the embedded model's own)",
    source="https://arxiv.org/abs/2103.00020",
    open=open_clip,
)
