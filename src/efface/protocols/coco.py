"""The `coco` protocol: do captions that have nothing to do with what was erased still get their pictures?

Lin et al., "Microsoft COCO", arXiv 1405.0312; papers on erasing draw 10,000 or 30,000 captions of val2014 and give

    clip_score   100 max(cos, 0) of each image with its caption (Hessel et al., arXiv 2104.08718), by default ViT-B/32
    fid, kid     distance to the real pictures of `--data` (a folder, or for FID an .npz of pytorch-fid: mu, sigma)
    cmmd         the same by CMMD; published values are by `-s extractor=clip:openai/clip-vit-large-patch14-336`
    fid_to_base  FID to the unedited model's images of the same captions

The captions come from `--prompts` (I2P's and SPM's columns for seed, guidance, width and height are used where there
are). `-n` takes that many, spread over the file. No judge is asked. Values in papers come from
`-s extractor=inception:FILE`; those of two extractors are never in one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from efface.errors import BadFile
from efface.generation import Job, read_folder, read_prompts
from efface.judges.wrappers import NoJudge
from efface.metrics.base import Measured
from efface.metrics.bootstrap import Array
from efface.metrics.clip_score import PLAIN
from efface.metrics.cmmd import cmmd, cmmd_statistic
from efface.metrics.features import Features
from efface.metrics.fid import FeatureStatistics, fid, fid_statistic, fid_to_statistics
from efface.metrics.kid import kid, kid_statistic
from efface.models.clip import Clip
from efface.protocols.answers import Judged
from efface.protocols.base import BASE
from efface.protocols.image_scores import (
    Looks,
    Scores,
    Vectors,
    as_set,
    both,
    clip_of,
    distance,
    open_looks,
    scored,
    to_reference,
)
from efface.protocols.planned import planned
from efface.protocols.plans import Asked, BeforeAfter, Plan, Prepared
from efface.settings import Settings

_BATCH = 256


class Config(Settings):
    """What `-s` sets.

    Attributes:
        clip: The CLIP that scores: a folder or hub id; empty for ViT-B/32, on the embedded model its own.
        extractor: Of the distances' features; empty for one that needs no download.
        draws: Resamples behind the distances' intervals, each of which costs as much as the distance.
    """

    clip: str = ""
    extractor: str = ""
    draws: int = Field(default=200, ge=20)


def prepare(asked: Asked) -> Prepared:
    """One image a caption."""
    config = Config.model_validate(asked.inputs.options)
    jobs = read_prompts(asked.inputs.prompts_for("coco"), asked.seed)
    if len(jobs) > asked.n:
        jobs = [jobs[i * len(jobs) // asked.n] for i in range(asked.n)]
    looks = open_looks(asked, config.extractor)
    reference = _reference(asked.inputs.data, looks)
    plan = Plan((), jobs=tuple(dict.fromkeys(jobs)))
    measure = _Scores(plan.jobs, clip_of(asked, config.clip), looks, reference, config.draws)
    return Prepared(dict.fromkeys(asked.requests, plan), NoJudge(), measure, labelled=False)


def _reference(data: Path | None, looks: Looks) -> Features | FeatureStatistics | None:
    """Features of real pictures, or their statistics."""
    if data is None or data.suffix.lower() == ".npz":
        return data and FeatureStatistics.load(data)
    paths = [image.path for image in read_folder(data) if image.path]
    if len(paths) < 2:
        raise BadFile(f"{data} has {len(paths)} picture; FID needs two at least, and 10,000 to compare with papers.")
    return Features(looks.files(paths), looks.version)


class _Scores:
    """What is measured of each model's images."""

    def __init__(
        self, jobs: Sequence[Job], clip: Clip, looks: Looks, reference: Features | FeatureStatistics | None, draws: int
    ) -> None:
        self.jobs, self.looks, self.reference, self.draws = jobs, looks, reference, draws
        self.version = PLAIN.version(clip)
        self.seen = Looks(clip.version, lambda images: clip.image_features(images).numpy())
        captions = list(dict.fromkeys(job.prompt for job in jobs))
        parts = [clip.text_features(captions[i : i + _BATCH]).numpy() for i in range(0, len(captions), _BATCH)]
        self.texts = dict(zip(captions, _unit(np.concatenate(parts)), strict=True))

    def __call__(self, name: str, edited: Judged, base: Judged) -> tuple[dict[str, BeforeAfter], set[Job]]:
        is_base = name == BASE
        found = {"clip_score": scored(self.version, self._clip(edited), None if is_base else self._clip(base))}
        after, before = self.looks(edited, self.jobs), None if is_base else self.looks(base, self.jobs)
        if before is not None:
            value = distance(self._fid, *both(after, before), self.looks.version)
            found["fid_to_base"] = value and BeforeAfter(value)
        if isinstance(self.reference, Features):
            found["fid"] = to_reference(self._fid, fid_statistic, after, before, self.reference, self.draws)
            found["kid"] = to_reference(self._kid, kid_statistic(), after, before, self.reference, self.draws)
            found["cmmd"] = to_reference(self._cmmd, cmmd_statistic, after, before, self.reference, self.draws)
        elif self.reference:
            found["fid"] = self._to_statistics(after, before, self.reference)
        return {metric: measured for metric, measured in found.items() if measured}, set(self.jobs) - set(after)

    def _clip(self, answers: Judged) -> Scores:
        """The score of each image with its caption."""
        vectors = self.seen(answers, self.jobs)
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
            fid_to_statistics(as_set(vectors, self.looks.version), reference, self.draws) if vectors else None
            for vectors in (after, before)
        )
        return value and BeforeAfter(value, base)


def _unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


PROTOCOL = planned(
    name="coco",
    summary="FID, KID, CMMD and CLIP score on captions and pictures that you give; -n captions at most",
    paper="https://arxiv.org/abs/1405.0312",
    metrics=("clip_score", "fid", "kid", "cmmd", "fid_to_base"),
    prepare=prepare,
    n=30_000,
    config=Config,
    is_judged=False,
    reads=("prompts", "data"),
)
