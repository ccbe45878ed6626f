"""Scores and distances of an evaluation's images, for protocols: each image is read and embedded once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from efface.errors import BadFile, NoInterval
from efface.generation import Job, read_picture
from efface.metrics.base import Measured
from efface.metrics.bootstrap import Array, Cluster, Statistic, mean_with_interval
from efface.metrics.features import Extractor, Features, Pixels, open_extractor
from efface.metrics.paired import paired_distances, paired_scores
from efface.metrics.rates import paired_difference, rate_with_interval
from efface.models.clip import Clip, open_clip
from efface.protocols.base import EvaluationInput
from efface.protocols.plan import BeforeAfter, ScoredImages

#: The CLIP that papers score with.
CLIP = "openai/clip-vit-base-patch32"
#: Extractors that need no download: from a package, and in the closed world of the built-in model its own CLIP.
OFFLINE, CLOSED_WORLD = "efficientnet", "emoji-clip"
DRAWS, _BATCH = 200, 64

#: Features (d,) by image.
Vectors = Mapping[Job, Array]
#: A number by image.
ScoreOfJob = Mapping[Job, float]


class ImageScores:
    """A function of pixels, computed once for each image.

    Args:
        version: The function's version.
        function: Takes images of shape (H, W, 3), returns (n, d).
    """

    def __init__(self, version: str, function: Callable[[Sequence[Pixels]], Array]) -> None:
        self.version = version
        self._function = function
        self._cache: dict[Path, Array] = {}

    def __call__(self, answers: ScoredImages, jobs: Iterable[Job]) -> Vectors:
        """The values (d,) by image, without images that could not be generated or cannot be read.

        Args:
            answers: The images of one model.
            jobs: Which of them.
        """
        paths = {job: path for job in jobs if (path := answers.images[job].path)}
        self._compute(paths.values(), must_exist=False)
        return {job: self._cache[path] for job, path in paths.items() if path in self._cache}

    def files(self, paths: Sequence[Path]) -> Array:
        """The values (n, d) of the user's pictures.

        Raises:
            BadFile: One of them cannot be read.
        """
        self._compute(paths, must_exist=True)
        return np.stack([self._cache[path] for path in paths])

    def _compute(self, paths: Iterable[Path], must_exist: bool) -> None:
        missing = [path for path in dict.fromkeys(paths) if path not in self._cache]
        for start in range(0, len(missing), _BATCH):
            pictures: dict[Path, Pixels] = {}
            for path in missing[start : start + _BATCH]:
                try:
                    pictures[path] = read_picture(path)
                except OSError as error:
                    if must_exist:
                        raise BadFile(f"Cannot read the picture {path}: {error}.") from error
            if pictures:
                self._cache.update(zip(pictures, self._function(list(pictures.values())), strict=True))


def extractor_for(evaluation: EvaluationInput, name: str) -> Extractor:
    """The extractor that a setting names; an empty name takes one that needs no download.

    Args:
        evaluation: The evaluation.
        name: The setting.

    Raises:
        BadInput: There is no such extractor.
    """
    return open_extractor(name or (CLOSED_WORLD if evaluation.world else OFFLINE), str(evaluation.model.device))


def feature_scores(evaluation: EvaluationInput, extractor: str) -> ImageScores:
    """The features of the extractor that a setting names, as `extractor_for` opens it."""
    opened = extractor_for(evaluation, extractor)
    return ImageScores(opened.version, opened.features)


def clip_for(evaluation: EvaluationInput, weights: str) -> Clip:
    """The CLIP that a setting names; an empty name takes that of papers or of the closed world."""
    default = evaluation.world.clip if evaluation.world else CLIP
    return open_clip(weights or default, str(evaluation.model.device))


def as_set(vectors: Vectors, version: str) -> Features:
    """Features (n, d) of a set of images, as distances take them."""
    return Features(np.stack(list(vectors.values())), version, tuple(job.prompt for job in vectors))


def common_images(one: Vectors, other: Vectors) -> tuple[Vectors, Vectors]:
    """The images, features (d,), that both have, in one order."""
    jobs = [job for job in one if job in other]
    return {job: one[job] for job in jobs}, {job: other[job] for job in jobs}


def distance(
    measure: Callable[[Features, Features], Measured], x: Vectors, y: Vectors, version: str
) -> Measured | None:
    """The distance between two sets of images; None for fewer than two of either, or if too few differ.

    Args:
        measure: The distance.
        x: Features (d,) of the images to measure.
        y: Features (d,) of the reference.
        version: The extractor's version.
    """
    if len(x) < 2 or len(y) < 2:
        return None
    with warnings.catch_warnings(), suppress(NoInterval):
        warnings.simplefilter("ignore")  # about small sets, which the number's note repeats
        return measure(as_set(x, version), as_set(y, version))
    return None


def to_reference(
    measure: Callable[[Features, Features], Measured],
    statistic: Statistic,
    after: Vectors,
    before: Vectors | None,
    reference: Features,
    draws: int = DRAWS,
) -> BeforeAfter | None:
    """The distance of images from a reference, the same before, and the paired difference; None for too few images.

    Args:
        measure: The distance.
        statistic: The distance of weighted sets, for the difference.
        after: Features (d,) of the eraser's images.
        before: Features (d,) of the unedited model's images; None to measure only one set.
        reference: The reference.
        draws: Number of resamples.
    """
    version = reference.extractor
    edited, unedited = common_images(after, after if before is None else before)
    if len(edited) < 2:
        return None
    with warnings.catch_warnings(), suppress(NoInterval):
        warnings.simplefilter("ignore")
        value = measure(as_set(edited, version), reference)
        if before is None:
            return BeforeAfter(value)
        base = measure(as_set(unedited, version), reference)
        change = paired_distances(statistic, as_set(unedited, version), as_set(edited, version), reference, draws)
        return BeforeAfter(value, base, _with_note(change, version))
    return None


def mean_score(version: str, after: ScoreOfJob, before: ScoreOfJob | None = None) -> BeforeAfter | None:
    """The mean of a score, the same before, and the paired difference; None for fewer than two images.

    Args:
        version: What computed the scores.
        after: Scores of the eraser's images.
        before: Scores of the unedited model's images.
    """
    return _before_after(
        after,
        before,
        lambda groups: mean_with_interval(groups, version),
        lambda first, second: _with_note(paired_scores(first, second), version),
    )


def share_of_images(version: str, after: ScoreOfJob, before: ScoreOfJob | None = None) -> BeforeAfter | None:
    """The share of images with an outcome of 1, the same before, and the paired difference.

    Args:
        version: What computed the outcomes.
        after: Outcomes (0 or 1) of the eraser's images.
        before: Outcomes of the unedited model's images.
    """

    def of_features(rate: Measured) -> Measured:
        return replace(rate, kind="score", extractor=version)

    return _before_after(
        after,
        before,
        lambda groups: of_features(rate_with_interval(groups)),
        lambda first, second: of_features(paired_difference(first, second)),
    )


def clusters_of(scores: ScoreOfJob) -> list[list[float]]:
    """Scores, a list for each prompt."""
    groups: dict[str, list[float]] = {}
    for job, score in scores.items():
        groups.setdefault(job.prompt, []).append(score)
    return list(groups.values())


def _before_after(
    after: ScoreOfJob,
    before: ScoreOfJob | None,
    mean: Callable[[Sequence[Cluster]], Measured],
    change: Callable[[Sequence[Cluster], Sequence[Cluster]], Measured],
) -> BeforeAfter | None:
    if len(after) < 2:
        return None
    value = mean(clusters_of(after))
    if before is None or len(before) < 2:
        return BeforeAfter(value)
    jobs = [job for job in after if job in before]
    paired = [clusters_of({job: scores[job] for job in jobs}) for scores in (before, after)]
    return BeforeAfter(value, mean(clusters_of(before)), change(*paired) if len(jobs) > 1 else None)


def _with_note(comparison: Measured, version: str) -> Measured:
    """A comparison as a score whose note names test and p-value."""
    return replace(comparison, extractor=version, note=f"{comparison.test}, p={comparison.p:.3g}", p=None, test="")
