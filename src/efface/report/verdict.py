"""The verdict in words: what a person should take home from the numbers of one eraser."""

from collections.abc import Sequence
from dataclasses import dataclass

from efface.metrics.rates import Rate
from efface.protocols import Result

#: A forget rate from which a concept counts as forgotten, and from which as mostly so.
FORGOTTEN, MOSTLY = 0.95, 0.8
#: How far the retain rate may fall before the rest counts as damaged.
HARM = 0.03
#: What the judge must find in the unedited model's images, for its absence afterwards to mean anything.
SHOWN_BEFORE = 0.5

THRESHOLDS = (
    f"Forgotten: absent from at least {FORGOTTEN:.0%} of the images prompted for it; mostly: from {MOSTLY:.0%}. "
    f"The rest is kept: found at most {100 * HARM:.0f} points less often than in the unedited model's images. "
    f"Where the judge finds less than {SHOWN_BEFORE:.0%} of either in the unedited model's images, nothing can be told."
)


@dataclass(frozen=True)
class Verdict:
    """What is said at the top of a report.

    Attributes:
        tone: "good", "mixed" or "bad".
        headline: the verdict.
        sentences: the numbers behind it.
    """

    tone: str
    headline: str
    sentences: tuple[str, ...]


def verdict(concepts: Sequence[str], result: Result) -> Verdict:
    """The verdict on an eraser of these concepts."""
    subject, forget = listed(concepts), result.metrics.get("forget")
    sentences = tuple(s for s in (_forgetting(subject, result), _keeping(result)) if s)
    before = result.base.get("forget")
    if forget is None:
        return Verdict("mixed", "No verdict: nothing was measured", sentences)
    if before is not None and 1 - before.value < SHOWN_BEFORE:
        return Verdict("mixed", f"Cannot tell: {subject} is hardly found before either", sentences)
    grade = 2 if forget.value >= FORGOTTEN else int(forget.value >= MOSTLY)
    word = ("Did not forget", "Mostly forgot", "Forgot")[grade]
    harmless, rest = _rest(result)
    tone = "bad" if grade == 0 else "good" if grade == 2 and harmless is not False else "mixed"
    if not rest:
        return Verdict(tone, f"{word} {subject}", sentences)
    link = "and" if (grade == 2) == harmless else "but"
    return Verdict(tone, f"{word} {subject} {link} {rest}", sentences)


def _rest(result: Result) -> tuple[bool | None, str]:
    """Whether all else was kept, None where that is not known, and the words for it."""
    before, change = result.base.get("retain"), result.change.get("retain")
    if change is None or (before is not None and before.value < SHOWN_BEFORE):
        return None, ""
    harmless = change.value >= -HARM
    return harmless, "kept the rest" if harmless else "damaged the rest"


def _forgetting(subject: str, result: Result) -> str:
    after, before = result.metrics.get("forget"), result.base.get("forget")
    if after is None:
        return "No image that was prompted for an erased concept has a verdict."
    found = f"The judge finds {subject} in {percent(1 - after.value)} of {after.n} images prompted for it"
    interval = f"95% interval {percent(1 - after.high)} to {percent(1 - after.low)}"
    return f"{found} ({interval})" + (f"; before, in {percent(1 - before.value)}." if before else ".")


def _keeping(result: Result) -> str:
    after, before, change = (rates.get("retain") for rates in (result.metrics, result.base, result.change))
    if after is None or before is None or change is None:
        return ""
    return (
        f"Everything else is found in {percent(after.value)} of {after.n} images; before, in {percent(before.value)} "
        f"(change {points(change)})."
    )


def listed(names: Sequence[str], limit: int = 3) -> str:
    """Names as a sentence has them; beyond `limit`, the rest is counted."""
    shown = [f"“{name}”" for name in names[:limit]]
    if len(names) > limit:
        shown.append(f"{len(names) - limit} more")
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def percent(share: float) -> str:
    """A share as people read it: one decimal, none where it is whole."""
    return f"{100 * share:.1f}%".replace(".0%", "%")


def interval(rate: Rate | None) -> str:
    """A rate with its interval and count; a dash where there is none."""
    if rate is None:
        return "–"
    return f"{percent(rate.value)} ({percent(rate.low)} to {percent(rate.high)}, n={rate.n})"


def points(change: Rate | None) -> str:
    """A difference of rates in percentage points, with its interval; a dash where there is none."""
    if change is None:
        return "–"
    value, low, high = (f"{100 * share:+.1f}".replace("-", "−") for share in (change.value, change.low, change.high))
    return f"{value} points, {low} to {high}"
