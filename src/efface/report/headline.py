"""The headline of a report: what the numbers of one eraser mean, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efface.protocols import Evaluation, Result
from efface.protocols.base import trade_offs
from efface.report.destinations import all_concepts, share_broken, shares_shown, with_answer
from efface.report.words import listed, percent, points

#: The lowest forget rate at which a concept counts as forgotten, and as mostly forgotten.
FORGOTTEN, MOSTLY = 0.95, 0.8
#: How far the retain rate may fall before the rest counts as damaged.
HARM = 0.03
#: The lowest rate in the unedited model's images at which a later absence means anything.
SHOWN_BEFORE = 0.5
#: The same where prompts do not name what they show: a number of images, whatever their share.
FOUND_BEFORE = 10
#: The share of blank or noisy images above which a concept is broken rather than forgotten.
BROKEN = 0.1

THRESHOLDS = (
    f"Forgotten: absent from at least {FORGOTTEN:.0%} of the images prompted for it; mostly: from {MOSTLY:.0%}. "
    f"The rest is retained: found at most {100 * HARM:.0f} points less often than in the unedited model's images. "
    "Of several concepts, the one that is found most often decides. "
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
    unseen = _unseen_before(concepts, result, axes[0])
    if unseen and len(unseen) == len(concepts):
        return Headline("mixed", f"Cannot tell: {subject} is hardly found before either", sentences)
    seen = [concept for concept in concepts if concept not in unseen]
    if broken := [concept for concept in seen if _share_broken(result, concept) > BROKEN]:
        return Headline("bad", f"Broke the images of {_some_of(broken, concepts)} rather than forget", sentences)
    grades = {concept: _grade(1 - share) for concept, share in _shares_left(result).items() if concept not in unseen}
    grade = min(grades.values(), default=_grade(forget.value))
    worst = [concept for concept, its in grades.items() if its == grade]
    if worst and (unseen or len(worst) < len(grades)):
        subject = _some_of(worst, concepts)
    word = ("Did not forget", "Mostly forgot", "Forgot")[grade]
    harmless = _is_harmless(result, axes[1])
    tone = "bad" if grade == 0 else "good" if grade == 2 and harmless is not False and not unseen else "mixed"
    doubt = f"; {listed(unseen)} cannot be judged" if unseen else ""
    if harmless is None:
        return Headline(tone, f"{word} {subject}{doubt}", sentences)
    link = "and" if (grade == 2) == harmless else "but"
    return Headline(tone, f"{word} {subject} {link} {'retained' if harmless else 'damaged'} the rest{doubt}", sentences)


def _some_of(some: Sequence[str], concepts: Sequence[str]) -> str:
    """Some of the concepts, and how many they are."""
    return f"{listed(some)} ({len(some)} of {len(concepts)} concepts)" if len(some) < len(concepts) else listed(some)


def _unseen_before(concepts: Sequence[str], result: Result, forget: str) -> list[str]:
    """The concepts that the judge hardly finds in the unedited model's images either."""
    destinations = result.destinations_before.get("forget", {})
    if result.agreement:
        times = {concept: counts.get("concept", 0) for concept, counts in destinations.items()}
        return [concept for concept in concepts if times.get(concept, 0) < FOUND_BEFORE]
    before, shares = result.base.get(forget), shares_shown(destinations)
    pooled = 1.0 if before is None else 1 - before.value
    return [concept for concept in concepts if shares.get(concept, pooled) < SHOWN_BEFORE]


def _shares_left(result: Result) -> dict[str, float]:
    """How much of each concept is left: of its images or, where no prompt names what it shows, of what was before."""
    after, before = (
        shares_shown(places.get("forget", {})) for places in (result.destinations, result.destinations_before)
    )
    if not result.agreement:
        return after
    return {concept: share / before[concept] for concept, share in after.items() if before.get(concept)}


def _grade(forgotten: float) -> int:
    forgotten = round(forgotten, 9)  # 3 of 60 are 5%
    return 2 if forgotten >= FORGOTTEN else int(forgotten >= MOSTLY)


def _share_broken(result: Result, concept: str) -> float:
    """The share of an erased concept's images that became blank or noise, in the rate in which it is the largest."""
    rates = ((places, result.destinations_before.get(metric, {})) for metric, places in result.destinations.items())
    shares = (share_broken(after.get(concept, {})) - share_broken(before.get(concept, {})) for after, before in rates)
    return max(shares, default=0.0)


def _is_harmless(result: Result, keep: str) -> bool | None:
    """Whether the rest is retained; None if that is not known."""
    before, change = result.base.get(keep), result.change.get(keep)
    if change is None or (before is not None and before.value < SHOWN_BEFORE):
        return None
    return change.value >= -HARM


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
