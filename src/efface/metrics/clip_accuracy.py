"""CLIP accuracy: the share of images that CLIP finds closer to the erased concept than to its anchor.

Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", arXiv 2303.13516;
https://github.com/nupurkmr9/concept-ablation (compvis/evaluate.py). With score as in `clip_score`

    accuracy = share of images x with score(x, target) > score(x, anchor)

One minus this accuracy is the CLIP error rate of SPM (arXiv 2312.16145). A tie, such as two cosines below zero, does
not count as closer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from efface.errors import BadInput
from efface.generation.folder import Pixels
from efface.metrics.base import Measured, MetricEntry
from efface.metrics.bootstrap import by_prompt
from efface.metrics.clip_score import ABLATION, ClipScoreConfig, score_table
from efface.metrics.features import batches
from efface.metrics.rates import rate_with_interval
from efface.models.clip import Clip


def clip_wins(
    clip: Clip, images: Iterable[Pixels], target: str, anchor: str, config: ClipScoreConfig = ABLATION
) -> list[float]:
    """Compare each image with two texts.

    Args:
        clip: The CLIP.
        images: Each of shape (H, W, 3).
        target: The erased concept ("grumpy cat", "van gogh style").
        anchor: The concept that replaced it ("cat", "painting").
        config: The score.

    Returns:
        1 for each image that is closer to `target` than to `anchor`, else 0.
    """
    wins: list[float] = []
    for batch in batches(images):
        scores = score_table(clip, batch, [target, anchor], config)
        wins += (scores[:, 0] > scores[:, 1]).astype(float).tolist()
    return wins


def clip_accuracy(
    clip: Clip,
    images: Iterable[Pixels],
    target: str,
    anchor: str,
    prompts: Sequence[str] | None = None,
    config: ClipScoreConfig = ABLATION,
) -> Measured:
    """The share of images that are closer to `target` than to `anchor`, with its interval.

    Args:
        clip: The CLIP.
        images: Each of shape (H, W, 3).
        target: The erased concept ("grumpy cat", "van gogh style").
        anchor: The concept that replaced it ("cat", "painting").
        prompts: The prompt of each image, to resample prompts. Without prompts, images count as independent.
        config: The score.

    Raises:
        BadInput: There are no images.
    """
    wins = clip_wins(clip, images, target, anchor, config)
    if not wins:
        raise BadInput("CLIP accuracy needs at least one image.")
    rate = rate_with_interval(by_prompt(wins, prompts))
    return replace(rate, kind="score", extractor=config.version(clip))


ENTRY = MetricEntry(
    name="clip_accuracy",
    summary="share of images closer to the erased concept than to its anchor, by CLIP",
    paper="https://arxiv.org/abs/2303.13516",
    over="images and texts",
    better="higher",
    measure=clip_accuracy,
)
