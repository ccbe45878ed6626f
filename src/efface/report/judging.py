"""How far the judge can be trusted: what it finds in the unedited model's images, in all and concept by concept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from efface.metrics.base import Measured
from efface.metrics.rates import rate_with_interval
from efface.protocols import BASE, Evaluation
from efface.report.rates import Bar, Block, rate_bar
from efface.report.series import Series, erasers_of, series_of
from efface.report.words import percent

#: Metrics whose prompts do not name their concept.
UNNAMED = ("indirect", "adversarial")


@dataclass(frozen=True)
class Judging:
    """The judge's calibration.

    Attributes:
        name: Of the judge.
        version: Of its weights and settings.
        blocks: Recall and false positives, or agreement with the unedited model's verdicts.
        meaning: What they mean for the other rates.
        concepts: How often each concept is found where it is prompted by name, the least first.
    """

    name: str
    version: str
    blocks: Sequence[Block]
    meaning: str
    concepts: Sequence[Bar]


def judging(evaluation: Evaluation) -> Judging | None:
    """The calibration of an evaluation's judge; None if nothing was asked of it."""
    judge = evaluation.judge
    if judge.recall is None and not any(result.shots for result in evaluation.results.values()):
        return None
    blocks = [
        Block(name, what, [rate_bar(_before("unedited model"), rate)])
        for name, what, rate in (
            ("recall", "it finds what was prompted", judge.recall),
            ("false positives", "it finds something that was not prompted", judge.false_positive_rate),
        )
        if rate is not None
    ]
    if agreeing := list(_agreement(evaluation)):
        blocks.append(Block("agreement", "its answer is the one on the unedited model's image", agreeing))
    return Judging(judge.name, judge.version, blocks, _meaning(judge.recall), _by_concept(evaluation))


def _agreement(evaluation: Evaluation) -> Iterator[Bar]:
    """Where no prompt says what it shows: how often an eraser changes no answer."""
    series = series_of(evaluation)
    for name, result in erasers_of(evaluation).items():
        if result.agreement:
            yield rate_bar(series[name], result.agreement)


def _before(title: str) -> Series:
    return Series(BASE, title, "base")


def _meaning(recall: Measured | None) -> str:
    if recall is None:
        return "No prompt says what it shows, so there is no recall: read the rates beside those of the unedited model."
    if recall.value == 1:
        return "It finds all that the unedited model was asked for."
    return (
        f"It misses {percent(1 - recall.value)} of what the unedited model was asked for, badly drawn or not known: "
        "that much looks forgotten without any eraser."
    )


def _by_concept(evaluation: Evaluation) -> list[Bar]:
    """Concepts by how often they are found, of the prompts that name them; whole prompts are resampled.

    Without a recall no prompt says what it shows: none names a concept.
    """
    if evaluation.judge.recall is None:
        return []
    found: dict[str, dict[str, list[float]]] = {}
    for shot in {(s.probe.concept, s.probe.job): s for s in evaluation.results[BASE].shots}.values():
        if shot.probe.metric not in UNNAMED and shot.found is not None:
            prompts = found.setdefault(shot.probe.concept, {})
            prompts.setdefault(shot.probe.job.prompt, []).append(float(shot.found))
    rates = {concept: rate_with_interval(list(prompts.values())) for concept, prompts in found.items()}
    ranked = sorted(rates.items(), key=lambda entry: (entry[1].value, entry[0]))
    return [rate_bar(_before(concept), rate) for concept, rate in ranked]
