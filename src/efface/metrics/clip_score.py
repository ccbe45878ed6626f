"""CLIP score: the similarity, by CLIP, of an image and a text, in most cases its prompt.

Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", arXiv 2104.08718;
https://github.com/jmhessel/clipscore. For an image x and a text t

    score(x, t) = weight max(cos(f(x), g(prefix t)), 0)

Presets: `PLAIN`, weight 100 and no prefix, as in torchmetrics and most papers on concept erasure; `ABLATION`, weight
2.5 and the prefix "A photo depicts ", as in CLIPScore and Concept Ablation (arXiv 2303.13516, compvis/evaluate.py,
ViT-B/32; the text of a style is "van gogh style").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import Field

from efface.errors import BadInput
from efface.generation.folder import Pixels
from efface.metrics.base import Measured, MetricEntry
from efface.metrics.bootstrap import Array, by_prompt, mean_with_interval
from efface.metrics.features import batches
from efface.models.clip import Clip
from efface.settings import Settings


class ClipScoreConfig(Settings):
    """The score as a function of the cosine.

    Attributes:
        weight: The factor of the cosine.
        prefix: The beginning of every text.
    """

    weight: float = Field(default=100.0, gt=0)
    prefix: str = ""

    def version(self, clip: Clip) -> str:
        """The name of the extractor in results."""
        return f"{clip.version} x{self.weight:g}" + (f" '{self.prefix}'" if self.prefix else "")


PLAIN = ClipScoreConfig()
ABLATION = ClipScoreConfig(weight=2.5, prefix="A photo depicts ")


def clip_scores(clip: Clip, images: Iterable[Pixels], texts: Sequence[str], config: ClipScoreConfig = PLAIN) -> Array:
    """Score each image with its text.

    Args:
        clip: The CLIP.
        images: Each of shape (H, W, 3).
        texts: The text of each image.
        config: The score.

    Returns:
        Scores of shape (n,).

    Raises:
        BadInput: There is not one text for each image.
    """
    scores: list[float] = []
    for batch in batches(images):
        captions = texts[len(scores) : len(scores) + len(batch)]
        if len(captions) < len(batch):
            raise BadInput(f"There are more images than the {len(texts)} texts; pass one text for each image.")
        distinct = list(dict.fromkeys(captions))
        table = score_table(clip, batch, distinct, config)
        scores += [float(row[distinct.index(text)]) for row, text in zip(table, captions, strict=True)]
    if len(scores) < len(texts):
        raise BadInput(f"{len(scores)} images came with {len(texts)} texts; pass one text for each image.")
    return np.array(scores)


def score_table(clip: Clip, images: Sequence[Pixels], texts: Sequence[str], config: ClipScoreConfig) -> Array:
    """Score each image with each text.

    Args:
        clip: The CLIP.
        images: The n images, each of shape (H, W, 3).
        texts: The m texts.
        config: The score.

    Returns:
        Scores of shape (n, m).
    """
    cosines = clip.cosines(images, [config.prefix + text for text in texts]).numpy()
    return config.weight * np.maximum(cosines, 0)


def clip_score(clip: Clip, images: Iterable[Pixels], texts: Sequence[str], config: ClipScoreConfig = PLAIN) -> Measured:
    """The mean score, with an interval from resampled texts.

    Args:
        clip: The CLIP (`efface.models.clip.open_clip`).
        images: Each of shape (H, W, 3); a generator is consumed in batches.
        texts: The text of each image, in most cases its prompt.
        config: The score.
    """
    return mean_with_interval(by_prompt(clip_scores(clip, images, texts, config).tolist(), texts), config.version(clip))


ENTRY = MetricEntry(
    name="clip_score",
    summary="cosine of an image and its text, times 100 (or CLIPScore's 2.5 with a prefix)",
    paper="https://arxiv.org/abs/2104.08718",
    over="images and texts",
    better="higher",
    measure=clip_score,
)
