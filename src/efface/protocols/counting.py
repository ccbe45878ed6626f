"""From judged images to numbers: rates, the judge's calibration, destinations, and erasers compared in pairs.

Images without an answer, and those that the judge is undecided about, count in no rate. All rates resample prompts
(`efface.metrics.rates`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from efface.generation import Job
from efface.judges import Judge, answer_of
from efface.metrics.base import Measured
from efface.metrics.paired import mcnemar
from efface.metrics.rates import rate_with_interval
from efface.protocols.plan import FORGETTING, Count, JudgedImage, Probe, ScoredImages, right_answers
from efface.protocols.results import Destinations, ErasersCompared, Result

#: Up to so many erasers are all compared with one another; of more, each is compared with the first alone.
ALL_PAIRS = 4

#: The name of given prompts among the attacks.
GIVEN = "prompts"

#: Judged images by concept and job.
_ByQuestion = Mapping[tuple[str, Job], JudgedImage]


def rate(images: Iterable[JudgedImage], count: Count) -> Measured | None:
    """The mean of what images count, with its interval; None if none counts."""
    return _rate(values_by_prompt(images, count))


def values_by_prompt(images: Iterable[JudgedImage], count: Count) -> list[list[float]]:
    """What images with an answer count, a list for each prompt.

    An answer about an image counts once, even if several erasers ask for it under different metrics.

    Args:
        images: Judged images.
        count: What each adds.
    """
    groups: dict[str, dict[tuple[str, Job], float]] = {}
    for image in images:
        if image.shows is not None and (value := count(image)) is not None:
            groups.setdefault(image.probe.job.prompt, {})[image.probe.concept, image.probe.job] = value
    return [list(group.values()) for group in groups.values()]


def agreement(pairs: Iterable[tuple[JudgedImage, JudgedImage]]) -> Measured | None:
    """How often both answers to one question about one prompt and seed are the same; None without a pair."""
    groups: dict[str, list[float]] = {}
    for one, other in pairs:
        groups.setdefault(one.probe.job.prompt, []).append(float(one.shows == other.shows))
    return _rate(list(groups.values()))


def calibrate(probes: Sequence[Probe], base: ScoredImages, judge: Judge) -> tuple[Measured | None, Measured | None]:
    """The judge's recall and false-positive rate on images of the unedited model whose prompts name their concept.

    A false positive is an image in which the judge finds another concept of the run that is of the same kind: a dog
    in an image of "a cat". An image counts with the share of such questions that are answered wrongly.

    Args:
        probes: The probes of the unedited model.
        base: Its answers.
        judge: The judge.
    """
    concepts = {probe.concept for probe in probes}
    right: dict[str, list[float]] = {}
    wrong: dict[str, list[float]] = {}
    for probe in {(p.concept, p.job): p for p in probes if p.metric in ("forget", "retain", "adjacent")}.values():
        answers = {q: answer_of(judge, q, s) for q, s in zip(base.questions, base.scores[probe.job], strict=True)}
        yes = {question: float(answer == "yes") for question, answer in answers.items() if answer in ("yes", "no")}
        if probe.concept in yes:
            right.setdefault(probe.job.prompt, []).append(yes[probe.concept])
        if others := [yes[q] for q in judge.peers(probe.concept) if q in concepts and q in yes]:
            wrong.setdefault(probe.job.prompt, []).append(sum(others) / len(others))
    return _rate(list(right.values())), _rate(list(wrong.values()))


def destinations(images: Sequence[JudgedImage]) -> dict[str, Destinations]:
    """By metric and erased concept, what the images show: `forget` first, then other metrics in their order."""
    counts: dict[str, dict[str, dict[str, int]]] = {"forget": {}}
    for image in images:
        if image.probe.metric in FORGETTING:
            counts["forget"].setdefault(image.probe.concept, {})
        if image.destination:
            places = counts.setdefault(image.probe.metric, {}).setdefault(image.probe.concept, {})
            places[image.destination] = places.get(image.destination, 0) + 1
    return dict(counts)


def rates_by_attack(images: Sequence[JudgedImage]) -> dict[str, Measured]:
    """The adversarial rate by what made the prompts: an attack, or `prompts` for given ones."""
    groups: dict[str, list[JudgedImage]] = {}
    for image in images:
        if image.probe.metric == "adversarial":
            groups.setdefault(image.probe.attack or GIVEN, []).append(image)
    rates = {attack: rate(group, right_answers("adversarial")) for attack, group in groups.items()}
    return {attack: value for attack, value in rates.items() if value}


def undecided(images: Iterable[JudgedImage]) -> dict[str, int]:
    """By metric, the number of images that the judge is undecided about."""
    return dict(Counter(image.probe.metric for image in images if image.undecided))


def comparisons(results: Mapping[str, Result], rates: Mapping[str, Mapping[str, Count]]) -> tuple[ErasersCompared, ...]:
    """Each eraser against each other; of more than four, each against the first.

    A pair is one question about one prompt and seed that both erasers have an answer to. Each rate that both have gets
    the difference over these pairs, with an interval that resamples prompts, and McNemar's exact p-value, which assumes
    independent images. With many images of one prompt the p-value is too small, with few prompts the interval is too
    narrow: report a difference only if both agree. No p-value is corrected for the number of comparisons.

    Not compared are the overall score, which is no share of images; scores and distances, of which protocols store no
    value for each image; and prompts that attacks found, which differ between erasers.

    Args:
        results: By name.
        rates: By eraser, in the order of comparison, what answers add to each of its rates.
    """
    answered = {
        name: {metric: _answered(results[name], count) for metric, count in counts.items()}
        for name, counts in rates.items()
    }
    return tuple(
        ErasersCompared(first, second, metric, difference)
        for first, second in _pairs(list(rates))
        for metric, count in rates[first].items()
        if metric in rates[second]
        and (difference := _difference(answered[first][metric], count, answered[second][metric], rates[second][metric]))
    )


def _rate(clusters: list[list[float]]) -> Measured | None:
    return rate_with_interval(clusters) if clusters else None


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for first, second in combinations(names, 2):
        if len(names) <= ALL_PAIRS or first == names[0]:
            yield first, second


def _answered(result: Result, count: Count) -> _ByQuestion:
    return {
        (image.probe.concept, image.probe.job): image
        for image in result.images
        if image.shows is not None and image.probe.attack is None and count(image) is not None
    }


def _difference(first: _ByQuestion, count: Count, second: _ByQuestion, other: Count) -> Measured | None:
    """The second minus the first where both have an answer; None if there is no pair, or an outcome is not 0 or 1."""
    shared = [key for key in first if key in second]
    before, after = (
        values_by_prompt((first[k] for k in shared), count),
        values_by_prompt((second[k] for k in shared), other),
    )
    outcomes = {outcome for cluster in (*before, *after) for outcome in cluster}
    return mcnemar(before, after) if outcomes and outcomes <= {0, 1} else None
