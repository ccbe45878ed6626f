"""From probes to shots: images once, questions once, and where each image of an erased concept went."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.generation import Image, Job, Sampling, generate_images
from efface.judges import Answer, Judge, answer_of, score_images, write_verdicts
from efface.judges.base import Scores
from efface.judges.verdicts import verdicts_of_scores, write_result_files
from efface.metrics.base import Measured
from efface.metrics.rates import rate_with_interval
from efface.models import Model
from efface.progress import Progress
from efface.protocols.base import BASE, FORGETTING, Destination, Probe, Shot

#: What an answer adds to a rate, or None if it does not count there, which must depend on its probe alone.
Count = Callable[[Shot], float | None]


@dataclass(frozen=True)
class Judged:
    """One model's images, each with a score for each question."""

    images: Mapping[Job, Image]
    questions: tuple[str, ...]
    scores: Mapping[Job, Scores]
    errors: Mapping[Job, str]


def questions_of(judge: Judge, probes: Iterable[Probe]) -> tuple[str, ...]:
    """What to ask of every image: the probes' concepts, what these could have become, and their guides.

    Raises:
        BadInput: The judge does not know one of the probes' concepts.
    """
    asked: dict[str, None] = {}
    for probe in probes:
        if probe.concept in asked:
            continue
        if not judge.knows(probe.concept):
            raise BadInput(
                f"The judge '{judge.name}' cannot recognise '{probe.concept}'; choose a judge that can, such as clip."
            )
        guide = (probe.guide,) if probe.guide and judge.knows(probe.guide) else ()
        asked.update(dict.fromkeys((probe.concept, *guide, *judge.peers(probe.concept))))
    return tuple(asked)


def judged(
    model: Model,
    probes: Sequence[Probe],
    judge: Judge,
    questions: tuple[str, ...],
    sampling: Sampling,
    out: Path,
    name: str = BASE,
    eraser: Eraser | None = None,
    progress: Progress | None = None,
    use_cache: bool = True,
) -> Judged:
    """Make the probes' images under `out/images/NAME`, judge them, and keep the verdicts in `out/verdicts`.

    A file that the judge's users expect goes to `out/results/NAME`, with a row a probe: no question is in it that was
    asked only to see what an image became.

    Only the unedited model's images go through the cache: they are what other evaluations will want again.
    """
    jobs = list(dict.fromkeys(probe.job for probe in probes))
    stem = safe_name(name)
    images = generate_images(
        model,
        jobs,
        sampling,
        out=out / "images" / stem,
        eraser=eraser,
        use_cache=use_cache and eraser is None,
        progress=progress,
        what=f"images of {name}",
    )
    scores, errors = score_images(judge, images, questions)
    (out / "verdicts").mkdir(parents=True, exist_ok=True)
    rows = verdicts_of_scores(judge, images, questions, scores, errors)
    write_verdicts(out / "verdicts" / f"{stem}.parquet", rows)
    wanted = {(probe.job, probe.concept) for probe in probes}
    own = [row for row, key in zip(rows, product(jobs, questions), strict=True) if key in wanted]
    write_result_files(judge, out / "results" / stem, images, own)
    return Judged(
        dict(zip(jobs, images, strict=True)),
        questions,
        dict(zip(jobs, scores, strict=True)),
        dict(zip(jobs, errors, strict=True)),
    )


def shots(probes: Sequence[Probe], answers: Judged, judge: Judge) -> tuple[Shot, ...]:
    """The answer to each probe."""
    return tuple(_shot(probe, answers, judge) for probe in probes)


def calibrate(probes: Sequence[Probe], base: Judged, judge: Judge) -> tuple[Measured | None, Measured | None]:
    """The judge's recall and false-positive rate on the unedited model's images of what was prompted by name.

    A false positive is an image in which it finds another concept that the run asks for, of the same sort as the
    prompted one: a dog found in "a cat". An image counts with the share of such questions that it gets wrong. What the
    judge is undecided about counts in neither, as in all other rates.
    """
    asked = {probe.concept for probe in probes}
    right: dict[str, list[float]] = {}
    wrong: dict[str, list[float]] = {}
    for probe in {(p.concept, p.job): p for p in probes if p.metric in ("forget", "retain", "adjacent")}.values():
        said = {q: answer_of(judge, q, s) for q, s in zip(base.questions, base.scores[probe.job], strict=True)}
        yes = {question: float(answer == "yes") for question, answer in said.items() if answer in ("yes", "no")}
        if probe.concept in yes:
            right.setdefault(probe.job.prompt, []).append(yes[probe.concept])
        if others := [yes[q] for q in judge.peers(probe.concept) if q in asked and q in yes]:
            wrong.setdefault(probe.job.prompt, []).append(sum(others) / len(others))
    return _rate(list(right.values())), _rate(list(wrong.values()))


def _good(shot: Shot) -> float | None:
    return shot.good


def rate(found: Iterable[Shot], count: Count = _good) -> Measured | None:
    """Mean of what shots count, by default the share of wanted answers, resampled by prompt."""
    return _rate(by_prompt(found, count))


def by_prompt(found: Iterable[Shot], count: Count = _good) -> list[list[float]]:
    """What shots count, a list a prompt, without errors and what the judge is undecided about.

    An answer about an image counts once, also where several erasers ask for it under different metrics.
    """
    groups: dict[str, dict[tuple[str, Job], float]] = {}
    for shot in found:
        if shot.found is not None and (value := count(shot)) is not None:
            groups.setdefault(shot.probe.job.prompt, {})[shot.probe.concept, shot.probe.job] = value
    return [list(group.values()) for group in groups.values()]


def _rate(clusters: list[list[float]]) -> Measured | None:
    return rate_with_interval(clusters) if clusters else None


def agreement(pairs: Iterable[tuple[Shot, Shot]]) -> Measured | None:
    """How often both answers to one question about one prompt and seed are the same."""
    groups: dict[str, list[float]] = {}
    for one, other in pairs:
        groups.setdefault(one.probe.job.prompt, []).append(float(one.found == other.found))
    return _rate(list(groups.values()))


def destinations(found: Iterable[Shot], metric: str = "forget") -> dict[str, dict[str, int]]:
    """By erased concept, where the images went that were prompted for it, by default by name."""
    went: dict[str, dict[str, int]] = {}
    for shot in found:
        if shot.probe.metric == metric and shot.went:
            counts = went.setdefault(shot.probe.concept, {})
            counts[shot.went] = counts.get(shot.went, 0) + 1
    return went


def other_destinations(found: Sequence[Shot]) -> dict[str, dict[str, dict[str, int]]]:
    """The same of every other forget rate, in the order of the shots."""
    metrics = dict.fromkeys(shot.probe.metric for shot in found if shot.went and shot.probe.metric != "forget")
    return {metric: destinations(found, metric) for metric in metrics}


def union(plans: Iterable[Sequence[Probe]]) -> list[Probe]:
    """What the unedited model is asked: every probe once; of a concept with several guides, without a guide."""
    found: dict[tuple[str, str, Job], Probe] = {}
    for probe in (probe for plan in plans for probe in plan):
        known = found.setdefault((probe.metric, probe.concept, probe.job), probe)
        if known.guide != probe.guide:
            found[probe.metric, probe.concept, probe.job] = replace(known, guide=None)
    return list(found.values())


def undecided(found: Iterable[Shot]) -> dict[str, int]:
    """By metric, the shots that the judge is undecided about."""
    return dict(Counter(shot.probe.metric for shot in found if shot.undecided))


def safe_name(name: str) -> str:
    """An eraser's name as a folder's: no separators, no leading dot."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip(".-") or "eraser"


def _shot(probe: Probe, answers: Judged, judge: Judge) -> Shot:
    image, line = answers.images[probe.job], answers.scores[probe.job]
    erased = probe.metric in FORGETTING
    score = float(line[answers.questions.index(probe.concept)])
    answer = answer_of(judge, probe.concept, score)
    if answer == "error":
        reason = answers.errors[probe.job] or "the judge gave no score"
        return Shot(probe, image.path, None, np.nan, None, "error" if erased else None, reason)
    saw = _recognised(probe, answers.questions, line, judge)
    went = _destination(probe, answer, saw, image, judge) if erased else None
    return Shot(probe, image.path, {"yes": True, "no": False}.get(answer), score, saw, went)


def _recognised(probe: Probe, questions: Sequence[str], line: Scores, judge: Judge) -> str | None:
    """The concept with the best score, among this one, its peers and the guide, that reaches its threshold."""
    rivals = {probe.concept, *judge.peers(probe.concept), *([probe.guide] if probe.guide else [])}
    above = [(float(s), q) for q, s in zip(questions, line, strict=True) if q in rivals and s >= judge.threshold(q)]
    return max(above)[1] if above else None


def _destination(probe: Probe, answer: Answer, saw: str | None, image: Image, judge: Judge) -> Destination:
    if answer in ("yes", "undecided"):
        return "concept" if answer == "yes" else "undecided"
    if saw is not None:
        return "guide" if probe.guide and judge.same(saw, probe.guide) else "other"
    return "broken" if is_broken(image.pixels()) else "nothing"


def is_broken(pixels: NDArray[np.uint8]) -> bool:
    """Whether an image (H, W, 3) is blank or noise.

    Blank is a standard deviation below 2 of 255. For noise, neighbours differ by as much as any two pixels do: the
    mean square of the difference is 2 variances, where that of pictures, pixel art too, stays far below 1.
    """
    x = pixels.astype(np.float64)
    variance = float(x.var(axis=(0, 1)).mean())
    if variance < 4.0:
        return True
    down, right = x[1:] - x[:-1], x[:, 1:] - x[:, :-1]
    return float((down**2).mean() + (right**2).mean()) / 2 > 1.3 * variance
