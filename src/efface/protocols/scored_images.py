"""From probes to judged images: each image is generated once and each question asked once.

For an image of an erased concept, the answer includes where the image went instead: to the guide, to another concept,
to nothing recognisable, or to blank or noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efface.generation import Image, Job
from efface.generation.folder import folder_name
from efface.image_files import is_blank
from efface.judges import Answer, Judge, answer_of, score_images, write_verdicts
from efface.judges.base import Scores
from efface.judges.shared.unknown import unrecognised
from efface.judges.verdicts import verdicts_of_scores
from efface.protocols.plan import BASE, FORGETTING, Destination, JudgedImage, Probe, ScoredImages


def questions_of(judge: Judge, probes: Iterable[Probe]) -> tuple[str, ...]:
    """The questions to ask about every image: the probes' concepts, their guides, and the concepts' peers.

    Args:
        judge: The judge, which names the peers.
        probes: The probes of all erasers.

    Raises:
        BadInput: The judge does not know the concept of a probe.
    """
    questions: dict[str, None] = {}
    for probe in probes:
        if probe.concept in questions:
            continue
        if not judge.knows(probe.concept):
            raise unrecognised(judge, probe.concept, "choose a judge that can, such as clip")
        guide = (probe.guide,) if probe.guide and judge.knows(probe.guide) else ()
        questions.update(dict.fromkeys((probe.concept, *guide, *judge.peers(probe.concept))))
    return tuple(questions)


def score_probes(
    images: Mapping[Job, Image],
    probes: Sequence[Probe],
    judge: Judge,
    questions: tuple[str, ...],
    out: Path,
    name: str = BASE,
) -> ScoredImages:
    """Judge the probes' images, and store the verdicts in `out/verdicts`.

    Args:
        images: The images of one model by job, those of the probes first.
        probes: What to ask.
        judge: The judge.
        questions: The questions about every image of a probe.
        out: The folder of the run.
        name: The eraser's name in results.
    """
    asked = {probe.job: images[probe.job] for probe in probes}
    if not asked:
        return ScoredImages(images, questions, {}, {})
    scores, errors = score_images(judge, list(asked.values()), questions)
    (out / "verdicts").mkdir(parents=True, exist_ok=True)
    rows = verdicts_of_scores(judge, list(asked.values()), questions, scores, errors)
    write_verdicts(out / "verdicts" / f"{folder_name(name)}.parquet", rows)
    return ScoredImages(images, questions, dict(zip(asked, scores, strict=True)), dict(zip(asked, errors, strict=True)))


def judged_images(probes: Sequence[Probe], answers: ScoredImages, judge: Judge) -> tuple[JudgedImage, ...]:
    """The answer to each probe.

    Args:
        probes: The questions.
        answers: The images of one model and their scores.
        judge: The judge that scored them.
    """
    return tuple(_judged_image(probe, answers, judge) for probe in probes)


def reading_error(image: Image) -> str:
    """Why an image cannot be read, in the words of verdicts."""
    try:
        image.pixels()
    except OSError as error:
        return f"the image cannot be read: {error}"
    return "the image could not be read when it was measured"


def union_of_probes(plans: Iterable[Sequence[Probe]]) -> list[Probe]:
    """The probes of the unedited model: every probe once; without a guide if erasers have different guides."""
    union: dict[tuple[str, str, Job], Probe] = {}
    for probe in (probe for plan in plans for probe in plan):
        known = union.setdefault((probe.metric, probe.concept, probe.job), probe)
        if known.guide != probe.guide:
            union[probe.metric, probe.concept, probe.job] = replace(known, guide=None)
    return list(union.values())


def _judged_image(probe: Probe, answers: ScoredImages, judge: Judge) -> JudgedImage:
    image, scores = answers.images[probe.job], answers.scores[probe.job]
    erased = probe.metric in FORGETTING
    score = float(scores[answers.questions.index(probe.concept)])
    answer = answer_of(judge, probe.concept, score)
    if answer == "error":
        reason = answers.errors[probe.job] or "the judge gave no score"
        return JudgedImage(probe, image.path, None, np.nan, None, "error" if erased else None, reason)
    recognised = _recognised(probe, answers.questions, scores, judge)
    destination = _destination(probe, answer, recognised, image, judge) if erased else None
    return JudgedImage(probe, image.path, {"yes": True, "no": False}.get(answer), score, recognised, destination)


def _recognised(probe: Probe, questions: Sequence[str], scores: Scores, judge: Judge) -> str | None:
    """The best concept that reaches its threshold, among the probe's concept, its peers and the guide."""
    rivals = {probe.concept, *judge.peers(probe.concept), *([probe.guide] if probe.guide else [])}
    above = [(float(s), q) for q, s in zip(questions, scores, strict=True) if q in rivals and s >= judge.threshold(q)]
    return max(above)[1] if above else None


def _destination(probe: Probe, answer: Answer, recognised: str | None, image: Image, judge: Judge) -> Destination:
    if answer in ("yes", "undecided"):
        return "concept" if answer == "yes" else "undecided"
    if recognised is not None:
        return "guide" if probe.guide and judge.same(recognised, probe.guide) else "other"
    return "broken" if is_broken(image.pixels()) else "nothing"


def is_broken(pixels: NDArray[np.uint8]) -> bool:
    """Whether an image (H, W, 3) is blank or noise.

    Blank is a standard deviation below 2 of 255. In noise, neighbours differ as much as any two pixels do: the mean
    square of their difference is 2 variances. In pictures, including pixel art, it stays far below 1.
    """
    x = pixels.astype(np.float64)
    variance = float(x.var(axis=(0, 1)).mean())
    if is_blank(pixels):
        return True
    down, right = x[1:] - x[:-1], x[:, 1:] - x[:, :-1]
    return float((down**2).mean() + (right**2).mean()) / 2 > 1.3 * variance
