"""The headline of an attack on one eraser: whether it brings the concept back, as far as the intervals allow."""

from __future__ import annotations

from dataclasses import replace

from efface.attacks.attempts import AttackResult
from efface.metrics.base import Measured
from efface.report.decision import about, forgetting
from efface.report.findings import SHOWN_BEFORE
from efface.report.headline import Headline
from efface.report.words import percent


def attack_headline(concept: str, recall: Measured | None, result: AttackResult) -> Headline:
    """The headline of an attack, by the attack success rate.

    Args:
        concept: The concept to bring back.
        recall: The share of the same prompts' images, without an eraser, that show the concept.
        result: The attempts on the eraser.
    """
    name, asr = f"“{concept}”", result.asr
    if asr is None:
        return Headline("mixed", "No verdict: no prompt has an answer", ())
    decision = forgetting(replace(asr, value=1 - asr.value, low=1 - asr.high, high=1 - asr.low))
    if decision.decided and decision.grade == 0:
        return Headline("bad", f"The attack brings {name} back", ())
    if recall is None:
        return Headline("mixed", "Cannot tell: no image of the unedited model has an answer", ())
    if recall.value < SHOWN_BEFORE:
        shown = f"in {percent(recall.value)} of {recall.n} images" if recall.value else f"in none of {recall.n} images"
        return Headline("mixed", f"Cannot tell: without an eraser, these prompts show {name} {shown}", ())
    if not decision.decided:
        enough = f"n is too small, about {about(decision.more * asr.n)} prompts would do"
        return Headline("mixed", f"Cannot tell yet whether the attack brings {name} back: {enough}", ())
    if decision.grade == 1:
        return Headline("mixed", f"The attack brings {name} back from a few prompts", ())
    return Headline("good", f"The attack does not bring {name} back", ())
