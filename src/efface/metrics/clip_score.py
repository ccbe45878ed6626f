"""CLIP score: how close CLIP finds images and the texts that they were made from.

Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", arXiv 2104.08718;
https://github.com/jmhessel/clipscore. Of an image x and a text t

    score(x, t) = weight max(cos(f(x), g(prefix t)), 0)

Presets: `PLAIN`, weight 100 and no prefix, as torchmetrics and most papers on erasing have it; `ABLATION`, weight 2.5
and "A photo depicts ", as CLIPScore and Concept Ablation (arXiv 2303.13516, compvis/evaluate.py, ViT-B/32; styles are
said as "van gogh style") have it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import Field

from efface.errors import BadInput
from efface.metrics.base import Measured, MetricEntry
from efface.metrics.bootstrap import Array, by_prompt, mean_with_interval
from efface.metrics.features import Pixels, batches
from efface.models.clip import Clip
from efface.settings import Settings


class ClipScoreConfig(Settings):
    """How a cosine becomes a score.

    Attributes:
        weight: What the cosine is multiplied by.
        prefix: What every text begins with.
    """

    weight: float = Field(default=100.0, gt=0)
    prefix: str = ""

    def version(self, clip: Clip) -> str:
        """The extractor that results name."""
        return f"{clip.version} x{self.weight:g}" + (f" '{self.prefix}'" if self.prefix else "")


PLAIN = ClipScoreConfig()
ABLATION = ClipScoreConfig(weight=2.5, prefix="A photo depicts ")


def clip_scores(clip: Clip, images: Iterable[Pixels], texts: Sequence[str], config: ClipScoreConfig = PLAIN) -> Array:
    """The score of each image with its own text, (n,).

    Raises:
        BadInput: There is not one text for each image.
    """
    scores: list[float] = []
    for batch in batches(images):
        said = texts[len(scores) : len(scores) + len(batch)]
        if len(said) < len(batch):
            raise BadInput(f"There are more images than the {len(texts)} texts; give one text for each image.")
        distinct = list(dict.fromkeys(said))
        table = score_table(clip, batch, distinct, config)
        scores += [float(row[distinct.index(text)]) for row, text in zip(table, said, strict=True)]
    if len(scores) < len(texts):
        raise BadInput(f"{len(scores)} images came with {len(texts)} texts; give one text for each image.")
    return np.array(scores)


def score_table(clip: Clip, images: Sequence[Pixels], texts: Sequence[str], config: ClipScoreConfig) -> Array:
    """The score of each image with each text, (n, m)."""
    cosines = clip.cosines(images, [config.prefix + text for text in texts]).numpy()
    return config.weight * np.maximum(cosines, 0)


def clip_score(clip: Clip, images: Iterable[Pixels], texts: Sequence[str], config: ClipScoreConfig = PLAIN) -> Measured:
    """The mean score, with an interval that resamples the texts.

    Args:
        clip: Which CLIP (`efface.models.clip.open_clip`).
        images: (H, W, 3) each; a generator is read as it is needed.
        texts: The text of each image, in most cases its prompt.
        config: How cosines become scores.
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
