"""What is known of each erased concept in each kind of prompt: forgotten, mostly, or not; or broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efface.metrics.base import Measured
from efface.metrics.rates import wilson_interval
from efface.protocols import Result
from efface.report.decision import MARGIN, Decision, draws_behind, forgetting
from efface.report.destinations import share_broken, shares_shown, with_answer

#: The lowest rate in the unedited model's images at which a later absence means anything.
SHOWN_BEFORE = 0.5
#: The same where prompts do not name what they show: a number of images, whatever their share.
FOUND_BEFORE = 10
#: The share of blank or noisy images above which a concept is broken rather than forgotten.
BROKEN = 0.1

#: Kinds of prompts beside the direct ones.
_FURTHER = ("indirect", "adversarial")


@dataclass(frozen=True)
class Finding:
    """What is known of one concept in one kind of prompt.

    Attributes:
        concept: The concept; empty for all concepts together.
        kind: "indirect" or "adversarial"; empty for direct prompts.
        decision: The grade, and whether it is decided.
        images: The number of images with an answer.
    """

    concept: str
    kind: str
    decision: Decision
    images: int


def unseen_before(concepts: Sequence[str], result: Result, forget: str) -> list[str]:
    """The concepts that the judge hardly finds in the unedited model's images either.

    Args:
        concepts: The erased concepts.
        result: The eraser's result.
        forget: The metric of forgetting.
    """
    destinations = result.destinations_before.get("forget", {})
    if result.agreement:
        times = {concept: counts.get("concept", 0) for concept, counts in destinations.items()}
        return [concept for concept in concepts if times.get(concept, 0) < FOUND_BEFORE]
    before, shares = result.base.get(forget), shares_shown(destinations)
    pooled = 1.0 if before is None else 1 - before.value
    return [concept for concept in concepts if shares.get(concept, pooled) < SHOWN_BEFORE]


def forgetting_findings(result: Result, forget: str, unseen: Sequence[str]) -> list[Finding]:
    """Whether each concept is forgotten, in direct, indirect and adversarial prompts.

    An absence in indirect prompts counts only if the unedited model shows the concept in them.

    Args:
        result: The eraser's result.
        forget: The metric of direct prompts.
        unseen: Concepts that direct prompts do not show before either.
    """
    findings = [finding for finding in _findings(result, forget, "") if finding.concept not in unseen]
    for kind in _FURTHER:
        shown = shares_shown(result.destinations_before.get(kind, {}))
        for finding in _findings(result, kind, kind):
            absent_before = kind == "indirect" and shown.get(finding.concept, 1.0) < SHOWN_BEFORE
            if (finding.decision.decided and finding.decision.grade == 0) or (
                not absent_before and finding.concept not in unseen
            ):
                findings.append(finding)
    return findings


def broken_concepts(concepts: Sequence[str], result: Result) -> list[Finding]:
    """The concepts of which more images than `BROKEN` became blank or noise, by the rate in which they are the most.

    Args:
        concepts: The erased concepts.
        result: The eraser's result.
    """
    findings: list[Finding] = []
    for concept in concepts:
        worst, more, images = BROKEN, 1.0, 0
        for metric, places in result.destinations.items():
            counts = places.get(concept, {})
            before = share_broken(result.destinations_before.get(metric, {}).get(concept, {}))
            if (became := share_broken(counts) - before) > worst:
                worst, images = became, with_answer(counts)
                more = _more_broken(share_broken(counts), before, images)
        if images:
            findings.append(Finding(concept, "", Decision(0, more), images))
    return findings


def _findings(result: Result, metric: str, kind: str) -> list[Finding]:
    """Each concept's grade in one rate; of a rate without counts by concept, that of all concepts."""
    pooled = result.metrics.get(metric)
    if pooled is None:
        return []
    left = _shares_left(result, kind or "forget", min(1.0, draws_behind(pooled) / pooled.n))
    if len(left) < 2 and not result.agreement:
        left = {next(iter(left), ""): pooled}
    places = result.destinations.get(kind or "forget", {})
    return [
        Finding(concept, kind, forgetting(rate), with_answer(places.get(concept, {})) or rate.n)
        for concept, rate in left.items()
    ]


def _shares_left(result: Result, metric: str, ratio: float) -> dict[str, Measured]:
    """How often each concept is absent.

    Where no prompt names what it shows, the rate is of the images that showed the concept before.

    Args:
        result: The eraser's result.
        metric: The metric of the counts.
        ratio: The number of independent draws of each image.
    """
    after, before = result.destinations.get(metric, {}), result.destinations_before.get(metric, {})
    shares, shares_before = shares_shown(after), shares_shown(before)
    rates: dict[str, Measured] = {}
    for concept, share in shares.items():
        n = with_answer(after[concept]) - after[concept].get("undecided", 0)
        if result.agreement:
            if not shares_before.get(concept):
                continue
            share, n = min(1.0, share / shares_before[concept]), before[concept]["concept"]
        rates[concept] = Measured(1 - share, *wilson_interval(1 - share, n * ratio), n)
    return rates


def _more_broken(share: float, before: float, n: int) -> float:
    """The factor of images at which an interval shows that a concept is broken."""
    draws = n
    while wilson_interval(share, draws)[0] - before < BROKEN - MARGIN:
        draws += max(1, draws // 20)
    return draws / n
