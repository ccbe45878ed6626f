"""The `coco` protocol: do captions that have nothing to do with what was erased still get their pictures?

Lin et al., "Microsoft COCO", arXiv 1405.0312; papers on erasing take 10,000 or 30,000 captions of val2014 and report

    clip_score   100 max(cos, 0) of each image with its caption (Hessel et al., arXiv 2104.08718), by default ViT-B/32
    fid, kid     distance to the real pictures of `--data` (a folder, or for FID an .npz of pytorch-fid: mu, sigma)
    cmmd         the same by CMMD; published values are by `-s extractor=clip:openai/clip-vit-large-patch14-336`
    fid_to_base  FID to the unedited model's images of the same captions

The captions come from `--prompts` (if there are I2P's and SPM's columns for seed, guidance, width and height, they are
used). `-n` takes that many, spread over the file. No judge is asked. Values in papers come from
`-s extractor=inception:FILE`; those of two extractors are never in one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from efface.errors import BadFile
from efface.generation import Job, read_folder
from efface.judges.wrappers import NoJudge
from efface.metrics.base import Measured
from efface.metrics.bootstrap import Array
from efface.metrics.clip_score import PLAIN
from efface.metrics.cmmd import cmmd, cmmd_statistic
from efface.metrics.features import Features
from efface.metrics.fid import FeatureStatistics, fid, fid_statistic, fid_to_statistics
from efface.metrics.kid import kid, kid_statistic
from efface.models.clip import Clip
from efface.protocols.base import EvaluationInput, Metric, Protocol
from efface.protocols.image_scores import (
    ImageScores,
    ScoreOfJob,
    Vectors,
    as_set,
    clip_for,
    common_images,
    distance,
    feature_scores,
    mean_score,
    to_reference,
)
from efface.protocols.plan import BASE, BeforeAfter, Plan, Prepared, ScoredImages
from efface.settings import Settings

_BATCH = 256


class CocoConfig(Settings):
    """The settings.

    Attributes:
        clip: The CLIP that scores: a folder or hub id; empty for ViT-B/32, and in a closed world for its own.
        extractor: The extractor of the distances' features; empty for one that needs no download.
        draws: Number of resamples of the distances' intervals; each costs as much as the distance.
    """

    clip: str = ""
    extractor: str = ""
    draws: int = Field(default=200, ge=20)


def prepare(evaluation: EvaluationInput) -> Prepared:
    """One image for each caption."""
    config = CocoConfig.model_validate(evaluation.options)
    jobs = evaluation.prompt_file("coco").jobs
    if len(jobs) > evaluation.n:
        jobs = [jobs[i * len(jobs) // evaluation.n] for i in range(evaluation.n)]
    features = feature_scores(evaluation, config.extractor)
    reference = _reference(evaluation.data, features)
    plan = Plan((), jobs=tuple(dict.fromkeys(jobs)))
    measure = _CaptionScores(plan.jobs, clip_for(evaluation, config.clip), features, reference, config.draws)
    return Prepared(dict.fromkeys(evaluation.requests, plan), NoJudge(), measure, labelled=False)


def _reference(data: Path | None, features: ImageScores) -> Features | FeatureStatistics | None:
    """The features of real pictures, or their statistics."""
    if data is None or data.suffix.lower() == ".npz":
        return data and FeatureStatistics.load(data)
    paths = [image.path for image in read_folder(data) if image.path]
    if len(paths) < 2:
        raise BadFile(f"{data} has {len(paths)} picture; FID needs two at least, and 10,000 to compare with papers.")
    return Features(features.files(paths), features.version)


class _CaptionScores:
    """The CLIP score of images with their captions, and the distances to real and to unedited images."""

    def __init__(
        self,
        jobs: Sequence[Job],
        clip: Clip,
        features: ImageScores,
        reference: Features | FeatureStatistics | None,
        draws: int,
    ) -> None:
        self.jobs, self.features, self.reference, self.draws = jobs, features, reference, draws
        self.version = PLAIN.version(clip)
        self.clip_features = ImageScores(clip.version, lambda images: clip.image_features(images).numpy())
        captions = list(dict.fromkeys(job.prompt for job in jobs))
        parts = [clip.text_features(captions[i : i + _BATCH]).numpy() for i in range(0, len(captions), _BATCH)]
        self.texts = dict(zip(captions, _unit(np.concatenate(parts)), strict=True))

    def __call__(self, name: str, edited: ScoredImages, base: ScoredImages) -> tuple[dict[str, BeforeAfter], set[Job]]:
        is_base = name == BASE
        scores = {"clip_score": mean_score(self.version, self._clip(edited), None if is_base else self._clip(base))}
        after, before = self.features(edited, self.jobs), None if is_base else self.features(base, self.jobs)
        if before is not None:
            value = distance(self._fid, *common_images(after, before), self.features.version)
            scores["fid_to_base"] = value and BeforeAfter(value)
        if isinstance(self.reference, Features):
            scores["fid"] = to_reference(self._fid, fid_statistic, after, before, self.reference, self.draws)
            scores["kid"] = to_reference(self._kid, kid_statistic(), after, before, self.reference, self.draws)
            scores["cmmd"] = to_reference(self._cmmd, cmmd_statistic, after, before, self.reference, self.draws)
        elif self.reference:
            scores["fid"] = self._to_statistics(after, before, self.reference)
        return {metric: measured for metric, measured in scores.items() if measured}, set(self.jobs) - set(after)

    def _clip(self, answers: ScoredImages) -> ScoreOfJob:
        """The score of each image with its caption."""
        vectors = self.clip_features(answers, self.jobs)
        return {
            job: PLAIN.weight * max(float(_unit(vector) @ self.texts[job.prompt]), 0.0)
            for job, vector in vectors.items()
        }

    def _fid(self, images: Features, reference: Features) -> Measured:
        return fid(images, reference, self.draws)

    def _kid(self, images: Features, reference: Features) -> Measured:
        return kid(images, reference, self.draws)

    def _cmmd(self, images: Features, reference: Features) -> Measured:
        return cmmd(images, reference, self.draws)

    def _to_statistics(
        self, after: Vectors, before: Vectors | None, reference: FeatureStatistics
    ) -> BeforeAfter | None:
        if len(after) < 2:
            return None
        value, base = (
            fid_to_statistics(as_set(vectors, self.features.version), reference, self.draws) if vectors else None
            for vectors in (after, before)
        )
        return value and BeforeAfter(value, base)


def _unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


ENTRY = Protocol(
    name="coco",
    summary="FID, KID, CMMD and CLIP score on captions and pictures that you give; -n captions at most",
    paper="https://arxiv.org/abs/1405.0312",
    metrics=(
        Metric("clip_score", "how well images match their captions", unit="100 cos"),
        *(Metric(name, "distance to real pictures", unit="", better="lower") for name in ("fid", "kid", "cmmd")),
        Metric("fid_to_base", "distance to the unedited model's images", unit="", better="lower"),
    ),
    prepare=prepare,
    n=30_000,
    config=CocoConfig,
    judged=False,
    reads=("prompts", "data"),
)
