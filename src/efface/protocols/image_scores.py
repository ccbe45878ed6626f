"""Scores and distances of the images of an evaluation: each image is read and embedded once, whoever asks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from efface.errors import BadFile
from efface.generation import Job, read_picture
from efface.metrics.base import Measured
from efface.metrics.bootstrap import Array, Cluster, Statistic, mean_with_interval
from efface.metrics.features import Extractor, Features, Pixels, open_extractor
from efface.metrics.paired import paired_distances, paired_scores
from efface.metrics.rates import paired_difference, rate_with_interval
from efface.models.clip import Clip, open_clip
from efface.protocols.answers import Judged
from efface.protocols.plans import Asked, BeforeAfter

#: The CLIP that papers score with.
CLIP = "openai/clip-vit-base-patch32"
#: What makes features without a download: from a package, or the embedded model's own.
OFFLINE, OWN = "efficientnet", "emoji-clip"
DRAWS, _BATCH = 200, 64

Vectors = Mapping[Job, Array]
Scores = Mapping[Job, float]


class Looks:
    """What a function of pixels says of each image, asked once an image.

    Args:
        version: Of the function.
        look: Images (H, W, 3) to (n, d).
    """

    def __init__(self, version: str, look: Callable[[Sequence[Pixels]], Array]) -> None:
        self.version = version
        self._look = look
        self._known: dict[Path, Array] = {}

    def __call__(self, answers: Judged, jobs: Iterable[Job]) -> Vectors:
        """By image, (d,); images that could not be made or cannot be read are left out."""
        paths = {job: path for job in jobs if (path := answers.images[job].path)}
        self._look_at(paths.values(), is_given=False)
        return {job: self._known[path] for job, path in paths.items() if path in self._known}

    def files(self, paths: Sequence[Path]) -> Array:
        """Of pictures that a user gives, (n, d).

        Raises:
            BadFile: One of them cannot be read.
        """
        self._look_at(paths, is_given=True)
        return np.stack([self._known[path] for path in paths])

    def _look_at(self, paths: Iterable[Path], is_given: bool) -> None:
        missing = [path for path in dict.fromkeys(paths) if path not in self._known]
        for start in range(0, len(missing), _BATCH):
            read: dict[Path, Pixels] = {}
            for path in missing[start : start + _BATCH]:
                try:
                    read[path] = read_picture(path)
                except OSError as error:
                    if is_given:
                        raise BadFile(f"Cannot read the picture {path}: {error}.") from error
            if read:
                self._known.update(zip(read, self._look(list(read.values())), strict=True))


def extractor_of(asked: Asked, name: str) -> Extractor:
    """The extractor that a setting names; by default one that needs no download.

    Raises:
        BadInput: There is no such extractor.
    """
    return open_extractor(name or (OWN if asked.is_emoji else OFFLINE), str(asked.model.device))


def open_looks(asked: Asked, extractor: str) -> Looks:
    """Its features, made once an image."""
    made = extractor_of(asked, extractor)
    return Looks(made.version, made.features)


def clip_of(asked: Asked, weights: str) -> Clip:
    """The CLIP that a setting names; by default the papers', on the embedded model its own."""
    return open_clip(weights or ("" if asked.is_emoji else CLIP), str(asked.model.device))


def as_set(vectors: Vectors, version: str) -> Features:
    """Features as distances take them."""
    return Features(np.stack(list(vectors.values())), version, tuple(job.prompt for job in vectors))


def both(one: Vectors, other: Vectors) -> tuple[Vectors, Vectors]:
    """The images that both have, in one order."""
    jobs = [job for job in one if job in other]
    return {job: one[job] for job in jobs}, {job: other[job] for job in jobs}


def distance(
    measure: Callable[[Features, Features], Measured], x: Vectors, y: Vectors, version: str
) -> Measured | None:
    """How far images are from others, which may be none; without at least two of each there is no distance."""
    if len(x) < 2 or len(y) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of small sets, which the value's note says too
        return measure(as_set(x, version), as_set(y, version))


def to_reference(
    measure: Callable[[Features, Features], Measured],
    statistic: Statistic,
    after: Vectors,
    before: Vectors | None,
    reference: Features,
    draws: int = DRAWS,
) -> BeforeAfter | None:
    """The distance of images from a reference, the same before, and the difference, paired."""
    version = reference.extractor
    kept, same = both(after, after if before is None else before)
    if len(kept) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = measure(as_set(kept, version), reference)
        if before is None:
            return BeforeAfter(value)
        base = measure(as_set(same, version), reference)
    change = paired_distances(statistic, as_set(same, version), as_set(kept, version), reference, draws)
    return BeforeAfter(value, base, difference(change, version))


def scored(version: str, after: Scores, before: Scores | None = None) -> BeforeAfter | None:
    """The mean of a score after, the same before, and the difference, paired; None for fewer than two images."""
    return _measured(
        after,
        before,
        lambda groups: mean_with_interval(groups, version),
        lambda first, second: difference(paired_scores(first, second), version),
    )


def shared(version: str, after: Scores, before: Scores | None = None) -> BeforeAfter | None:
    """The same of outcomes of 0 and 1, whose mean is a share."""

    def of(rate: Measured) -> Measured:
        return replace(rate, kind="score", extractor=version)

    return _measured(
        after,
        before,
        lambda groups: of(rate_with_interval(groups)),
        lambda first, second: of(paired_difference(first, second)),
    )


def _measured(
    after: Scores,
    before: Scores | None,
    mean: Callable[[Sequence[Cluster]], Measured],
    change: Callable[[Sequence[Cluster], Sequence[Cluster]], Measured],
) -> BeforeAfter | None:
    if len(after) < 2:
        return None
    value = mean(clusters(after))
    if before is None or len(before) < 2:
        return BeforeAfter(value)
    jobs = [job for job in after if job in before]
    paired = [clusters({job: scores[job] for job in jobs}) for scores in (before, after)]
    return BeforeAfter(value, mean(clusters(before)), change(*paired) if len(jobs) > 1 else None)


def difference(comparison: Measured, version: str) -> Measured:
    """A comparison as a score with a note."""
    return replace(comparison, extractor=version, note=f"{comparison.test}, p={comparison.p:.3g}", p=None, test="")


def clusters(scores: Scores) -> list[list[float]]:
    """Scores, a list a prompt."""
    groups: dict[str, list[float]] = {}
    for job, score in scores.items():
        groups.setdefault(job.prompt, []).append(score)
    return list(groups.values())
