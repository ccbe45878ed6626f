"""The verdict in words: what a person should take home from the numbers of one eraser."""

from collections.abc import Sequence
from dataclasses import dataclass

from efface.protocols import Result
from efface.report.destinations import broken_in, found_in, judged, together
from efface.report.words import listed, percent, points

#: A forget rate from which a concept counts as forgotten, and from which as mostly so.
FORGOTTEN, MOSTLY = 0.95, 0.8
#: How far the retain rate may fall before the rest counts as damaged.
HARM = 0.03
#: What the judge must find in the unedited model's images, for its absence afterwards to mean anything.
SHOWN_BEFORE = 0.5
#: The same where prompts do not say what they show: in so many images, however few of all that is.
FOUND_BEFORE = 10
#: The share of blank or noisy images from which a concept is broken rather than forgotten.
BROKEN = 0.1

THRESHOLDS = (
    f"Forgotten: absent from at least {FORGOTTEN:.0%} of the images prompted for it; mostly: from {MOSTLY:.0%}. "
    f"The rest is kept: found at most {100 * HARM:.0f} points less often than in the unedited model's images. "
    "Of several concepts, the one that is found most often decides. "
    f"Broken: more than {BROKEN:.0%} of the images prompted for it, in whatever words, became blank or noise. "
    f"Where the judge finds less than {SHOWN_BEFORE:.0%} of either in the unedited model's images, nothing can be told "
    "of it. Where prompts do not say what they show, a concept is forgotten if found at most "
    f"{1 - FORGOTTEN:.0%} as often as before, mostly at {1 - MOSTLY:.0%}; if found before in fewer than {FOUND_BEFORE} "
    "images, nothing can be told."
)

#: What protocols call forgetting, and what they call keeping all else of the same sort.
AXES = (("forget", "retain"), ("object_ua", "object_ira"), ("style_ua", "style_ira"))


@dataclass(frozen=True)
class Verdict:
    """What is said at the top of a report.

    Attributes:
        tone: "good", "mixed" or "bad"; "plain" where nothing is judged.
        headline: the verdict.
        sentences: the numbers behind it.
    """

    tone: str
    headline: str
    sentences: tuple[str, ...]


def axes(result: Result) -> tuple[str, str]:
    """What the result calls forgetting and keeping: the first names of which it has the first."""
    return next((names for names in AXES if names[0] in result.metrics), AXES[0])


def erased_by(result: Result) -> tuple[str, ...]:
    """The concepts that an eraser's forget probes ask for, in the plan's order."""
    forgetting = {names[0] for names in AXES}
    return tuple(dict.fromkeys(shot.probe.concept for shot in result.shots if shot.probe.metric in forgetting))


def verdict(concepts: Sequence[str], result: Result) -> Verdict:
    """The verdict on an eraser of these concepts."""
    subject, name = listed(concepts), axes(result)[0]
    forget = result.metrics.get(name)
    sentences = tuple(s for s in (_forgetting(subject, result), _going(result), _keeping(result)) if s)
    if forget is None and not concepts and result.metrics:
        return Verdict("plain", "Measured, not judged", ())
    if forget is None:
        why = f"no image prompted for {subject} has an answer" if concepts else "nothing was measured"
        return Verdict("mixed", f"No verdict: {why}", sentences)
    unseen = _unseen(concepts, result)
    if unseen and len(unseen) == len(concepts):
        return Verdict("mixed", f"Cannot tell: {subject} is hardly found before either", sentences)
    seen = [concept for concept in concepts if concept not in unseen]
    if broken := [concept for concept in seen if _broken_share(result, concept) > BROKEN]:
        return Verdict("bad", f"Broke the images of {_of(broken, concepts)} rather than forget", sentences)
    grades = {concept: _grade(1 - share) for concept, share in _left(result).items() if concept not in unseen}
    grade = min(grades.values(), default=_grade(forget.value))
    worst = [concept for concept, its in grades.items() if its == grade]
    if worst and (unseen or len(worst) < len(grades)):
        subject = _of(worst, concepts)
    word = ("Did not forget", "Mostly forgot", "Forgot")[grade]
    harmless, rest = _rest(result)
    tone = "bad" if grade == 0 else "good" if grade == 2 and harmless is not False and not unseen else "mixed"
    doubt = f"; of {listed(unseen)} nothing can be told" if unseen else ""
    if not rest:
        return Verdict(tone, f"{word} {subject}{doubt}", sentences)
    link = "and" if (grade == 2) == harmless else "but"
    return Verdict(tone, f"{word} {subject} {link} {rest}{doubt}", sentences)


def _of(some: Sequence[str], concepts: Sequence[str]) -> str:
    """Some of the concepts, and how many that is."""
    return f"{listed(some)} ({len(some)} of {len(concepts)} concepts)" if len(some) < len(concepts) else listed(some)


def _unseen(concepts: Sequence[str], result: Result) -> list[str]:
    """The concepts that the judge hardly finds in the unedited model's images either."""
    if result.agreement:
        times = {concept: counts.get("concept", 0) for concept, counts in result.went_before.items()}
        return [concept for concept in concepts if times.get(concept, 0) < FOUND_BEFORE]
    before = result.base.get(axes(result)[0])
    shares = found_in(result.went_before)
    pooled = 1.0 if before is None else 1 - before.value
    return [concept for concept in concepts if shares.get(concept, pooled) < SHOWN_BEFORE]


def _left(result: Result) -> dict[str, float]:
    """How much of each concept is left: of its images or, where no prompt says what it shows, of what was before."""
    after, before = found_in(result.went), found_in(result.went_before)
    if not result.agreement:
        return after
    return {concept: share / before[concept] for concept, share in after.items() if before.get(concept)}


def _grade(forgotten: float) -> int:
    forgotten = round(forgotten, 9)  # 3 of 60 are 5%
    return 2 if forgotten >= FORGOTTEN else int(forgotten >= MOSTLY)


def _broken_share(result: Result, concept: str) -> float:
    """The share of an erased concept's images that became blank or noise, in the rate in which it is the largest."""
    rates = (
        (result.went, result.went_before),
        *((w, result.went_by_before.get(m, {})) for m, w in result.went_by.items()),
    )
    return max(broken_in(after.get(concept, {})) - broken_in(before.get(concept, {})) for after, before in rates)


def _rest(result: Result) -> tuple[bool | None, str]:
    """Whether all else was kept, None where that is not known, and the words for it."""
    name = axes(result)[1]
    before, change = result.base.get(name), result.change.get(name)
    if change is None or (before is not None and before.value < SHOWN_BEFORE):
        return None, ""
    harmless = change.value >= -HARM
    return harmless, "kept the rest" if harmless else "damaged the rest"


def _forgetting(subject: str, result: Result) -> str:
    name = axes(result)[0]
    after, before = result.metrics.get(name), result.base.get(name)
    if after is None:
        return "No image that was prompted for an erased concept has a verdict."
    asked = "images" if result.agreement else "images prompted for it"
    found = f"The judge finds {subject} in {percent(1 - after.value)} of {after.n} {asked}"
    interval = f"95% interval {percent(1 - after.high)} to {percent(1 - after.low)}"
    said = f"{found} ({interval})" + (f"; before, in {percent(1 - before.value)}." if before else ".")
    if result.agreement and before and before.value < 1:
        said += f" That is {percent((1 - after.value) / (1 - before.value))} as often."
    shares = found_in(result.went)
    if len(shares) < 2 or not any(shares.values()):
        return said
    worst = max(shares, key=shares.__getitem__)
    return f"{said} Of the concepts, “{worst}” is found most often, in {percent(shares[worst])} of its images."


def _going(result: Result) -> str:
    """Where the images went that no longer show what was erased."""
    counts = together(result.went)
    total = judged(counts)
    guides = list(dict.fromkeys(s.probe.guide for s in result.shots if s.went == "guide" and s.probe.guide))
    words = {
        "guide": f"{listed(guides)}, the guide," if guides else "the guide",
        "other": "another concept",
        "nothing": "nothing that the judge knows",
        "broken": "blank or noise",
    }
    places = [(counts[place], said) for place, said in words.items() if counts[place]]
    said = ", ".join(f"{said} in {percent(count / total)}" for count, said in sorted(places, reverse=True))
    said = f"What it sees instead: {said}." if said else ""
    broken = {metric: broken_in(together(went)) for metric, went in result.went_by.items()}
    others = ", ".join(f"{percent(share)} ({metric})" for metric, share in broken.items() if share)
    return f"{said} Of other prompts, it sees blank or noise in {others}.".lstrip() if others else said


def _keeping(result: Result) -> str:
    name = axes(result)[1]
    after, before, change = (rates.get(name) for rates in (result.metrics, result.base, result.change))
    if after is None or before is None or change is None:
        return ""
    return (
        f"Everything else is found in {percent(after.value)} of {after.n} images; before, in {percent(before.value)} "
        f"(change {points(change)})."
    )
