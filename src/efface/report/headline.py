"""The headline of a report: what the numbers of one eraser mean, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efface.protocols import Evaluation, Result
from efface.protocols.base import trade_offs
from efface.report.decision import FORGOTTEN, HARM, MARGIN, MOSTLY, Decision, about, retention
from efface.report.destinations import all_concepts, share_broken, shares_shown, with_answer
from efface.report.findings import (
    BROKEN,
    FOUND_BEFORE,
    SHOWN_BEFORE,
    Finding,
    broken_concepts,
    forgetting_findings,
    unseen_before,
)
from efface.report.words import listed, percent, points

THRESHOLDS = (
    f"Forgotten: absent from at least {FORGOTTEN:.0%} of the images prompted for it; mostly: from {MOSTLY:.0%}. "
    f"The rest is retained: found at most {100 * HARM:.0f} points less often than in the unedited model's images. "
    f"A statement is made only if the 95% interval reaches at most {100 * MARGIN:.0f} points beyond these limits; "
    "otherwise more images are needed. The concept and the kind of prompt (direct, indirect, adversarial) with the "
    "lowest rate decide. "
    f"Broken: more than {BROKEN:.0%} of the images prompted for it, in whatever words, became blank or noise. "
    f"Where the judge finds less than {SHOWN_BEFORE:.0%} of either in the unedited model's images, no statement is "
    "possible. Where prompts do not name what they show, a concept is forgotten if found at most "
    f"{1 - FORGOTTEN:.0%} as often as before, mostly at {1 - MOSTLY:.0%}; if found before in fewer than {FOUND_BEFORE} "
    "images, no statement is possible."
)

#: (forgetting, retention): two metrics that are traded off.
Axes = tuple[str, str]
DEFAULT_AXES: Axes = ("forget", "retain")


@dataclass(frozen=True)
class Headline:
    """The statement at the top of a report.

    Attributes:
        tone: "good", "mixed" or "bad"; "plain" without a judgement.
        text: The statement.
        sentences: The numbers behind it.
    """

    tone: str
    text: str
    sentences: tuple[str, ...]


def headline(evaluation: Evaluation, name: str) -> Headline:
    """The headline of one eraser.

    Args:
        evaluation: The evaluation.
        name: The eraser's name.
    """
    return headline_of(erased_by(evaluation, name), evaluation.erasers[name], axes_of(evaluation, name))


def axes_of(evaluation: Evaluation, name: str) -> Axes:
    """The metrics of forgetting and retention of an eraser: the first declared pair of which it has the first."""
    metrics = evaluation.erasers[name].metrics
    return next((axes for axes in trade_offs(evaluation.metrics) if axes[0] in metrics), DEFAULT_AXES)


def forgetting_metrics(evaluation: Evaluation) -> tuple[str, ...]:
    """The metrics on the axis of forgetting: their probes name an erased concept."""
    return tuple(dict.fromkeys((DEFAULT_AXES[0], *(forget for forget, _ in trade_offs(evaluation.metrics)))))


def erased_by(evaluation: Evaluation, name: str) -> tuple[str, ...]:
    """The concepts that an eraser's forget probes ask for, in the plan's order."""
    metrics, images = forgetting_metrics(evaluation), evaluation.erasers[name].images
    return tuple(dict.fromkeys(image.probe.concept for image in images if image.probe.metric in metrics))


def headline_of(concepts: Sequence[str], result: Result, axes: Axes = DEFAULT_AXES) -> Headline:
    """The headline of a result.

    Args:
        concepts: The erased concepts.
        result: The eraser's result.
        axes: The metrics of forgetting and retention.
    """
    subject, forget = listed(concepts), result.metrics.get(axes[0])
    sentences = tuple(s for s in (_forgetting(subject, result, axes[0]), _instead(result), _rest(result, axes[1])) if s)
    if forget is None and not concepts and result.metrics:
        return Headline("plain", "Measured, not judged", ())
    if forget is None:
        why = f"no image prompted for {subject} has an answer" if concepts else "nothing was measured"
        return Headline("mixed", f"No verdict: {why}", sentences)
    unseen = unseen_before(concepts, result, axes[0])
    if unseen and len(unseen) == len(concepts):
        return Headline("mixed", f"Cannot tell: {subject} is hardly found before either", sentences)
    broken = broken_concepts([concept for concept in concepts if concept not in unseen], result)
    if certain := [finding.concept for finding in broken if finding.decision.decided]:
        return Headline("bad", f"Broke the images of {_some_of(certain, concepts)} rather than forget", sentences)
    findings = [*broken, *forgetting_findings(result, axes[0], unseen)]
    tone, text = _verdict(concepts, unseen, findings, _retention(result, axes[1]))
    return Headline(tone, text, sentences)


def _verdict(
    concepts: Sequence[str], unseen: Sequence[str], findings: Sequence[Finding], rest: Decision | None
) -> tuple[str, str]:
    """Tone and text.

    Args:
        concepts: The erased concepts.
        unseen: Those that the judge hardly finds before either.
        findings: What is known of each concept in each kind of prompt.
        rest: What is known of the rest; None without a statement.
    """
    known = [finding for finding in findings if finding.decision.decided]
    open_ones = [finding for finding in findings if not finding.decision.decided]
    grade = min((finding.decision.grade for finding in known), default=0)
    doubts = "".join(f"; {listed(unseen)} cannot be judged" for _ in unseen[:1])
    n = max((finding.images for finding in findings if not finding.kind), default=0)
    more = [finding.decision.more for finding in open_ones]
    more += [rest.more] if rest and not rest.decided else []
    enough = f"n is too small, about {about(max(more, default=1) * n)} images would do"
    enough += " for each concept" if len(concepts) > 1 else ""
    damaged = rest is not None and rest.decided and rest.grade == 0
    if not known or (grade > 0 and any(finding.kind == "" for finding in open_ones)):
        names = list(dict.fromkeys(f.concept for f in open_ones if f.concept)) or concepts
        text = f"Cannot tell yet whether {_some_of(names, concepts)} {'is' if len(names) == 1 else 'are'} forgotten"
        return "mixed", f"{text}{', but damaged the rest' if damaged else ''}: {enough}{doubts}"
    worst = [finding for finding in known if finding.decision.grade == grade]
    names = list(dict.fromkeys(finding.concept for finding in worst if finding.concept))
    judged = {finding.concept for finding in findings}
    subject = _some_of(names, concepts) if names and (unseen or len(names) < len(judged)) else listed(concepts)
    kinds = dict.fromkeys(finding.kind for finding in worst)
    where = f" under {' and '.join(kinds)} prompts" if "" not in kinds else ""
    text = f"{('Did not forget', 'Mostly forgot', 'Forgot')[grade]} {subject}{where}"
    if rest and rest.decided:
        link = "and" if (grade == 2) == (rest.grade == 1) else "but"
        text += f" {link} {'damaged' if damaged else 'retained'} the rest"
    yet = [f"{kind} prompts" for kind in dict.fromkeys(f.kind for f in open_ones)] if grade else []
    yet += ["the rest"] if rest and not rest.decided else []
    text += f"; cannot tell yet for {' and '.join(yet)}: {enough}" if yet else ""
    good = grade == 2 and not damaged and not unseen and not yet
    return "bad" if grade == 0 else "good" if good else "mixed", text + doubts


def _some_of(some: Sequence[str], concepts: Sequence[str]) -> str:
    """Some of the concepts, and how many they are."""
    return f"{listed(some)} ({len(some)} of {len(concepts)} concepts)" if len(some) < len(concepts) else listed(some)


def _retention(result: Result, keep: str) -> Decision | None:
    """Whether the rest is retained; None if no statement is possible."""
    before, change = result.base.get(keep), result.change.get(keep)
    if change is None or (before is not None and before.value < SHOWN_BEFORE):
        return None
    return retention(change)


def _forgetting(subject: str, result: Result, forget: str) -> str:
    after, before = result.metrics.get(forget), result.base.get(forget)
    if after is None:
        return "No image that was prompted for an erased concept has a verdict."
    asked = "images" if result.agreement else "images prompted for it"
    sentence = f"The judge finds {subject} in {percent(1 - after.value)} of {after.n} {asked}"
    sentence += f" (95% interval {percent(1 - after.high)} to {percent(1 - after.low)})"
    sentence += f"; before, in {percent(1 - before.value)}." if before else "."
    if result.agreement and before and before.value < 1:
        sentence += f" That is {percent((1 - after.value) / (1 - before.value))} as often."
    shares = shares_shown(result.destinations.get("forget", {}))
    if len(shares) < 2 or not any(shares.values()):
        return sentence
    worst = max(shares, key=shares.__getitem__)
    return f"{sentence} Of the concepts, “{worst}” is found most often, in {percent(shares[worst])} of its images."


def _instead(result: Result) -> str:
    """What the images show that no longer show the erased concept."""
    counts = all_concepts(result.destinations.get("forget", {}))
    total = with_answer(counts)
    to_guide = (image.probe.guide for image in result.images if image.destination == "guide")
    guides = list(dict.fromkeys(guide for guide in to_guide if guide))
    words = {
        "guide": f"{listed(guides)}, the guide," if guides else "the guide",
        "other": "another concept",
        "nothing": "nothing that the judge knows",
        "broken": "blank or noise",
    }
    places = sorted(((counts[place], word) for place, word in words.items() if counts[place]), reverse=True)
    sentence = ", ".join(f"{word} in {percent(count / total)}" for count, word in places)
    sentence = f"What it sees instead: {sentence}." if sentence else ""
    others = {metric: all_concepts(places) for metric, places in result.destinations.items() if metric != "forget"}
    broken = {metric: share for metric, counts in others.items() if (share := share_broken(counts))}
    if not broken:
        return sentence
    shares = ", ".join(f"{percent(share)} ({metric})" for metric, share in broken.items())
    return f"{sentence} Of other prompts, it sees blank or noise in {shares}.".lstrip()


def _rest(result: Result, keep: str) -> str:
    after, before, change = (rates.get(keep) for rates in (result.metrics, result.base, result.change))
    if after is None or before is None or change is None:
        return ""
    return (
        f"Everything else is found in {percent(after.value)} of {after.n} images; before, in {percent(before.value)} "
        f"(change {points(change)})."
    )
