"""What `efface evaluate` and `efface demo` share: running a protocol, and telling people the numbers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from efface.report.verdict import erased_by, verdict
from efface.report.words import interval, percent

if TYPE_CHECKING:
    from efface.cli.output import Screen
    from efface.eraser import Eraser
    from efface.generate import Sampling
    from efface.metrics.rates import Rate
    from efface.models import Model
    from efface.protocols import Evaluation, Result


def evaluated(
    screen: "Screen",
    model: "Model",
    erasers: "Mapping[str, Eraser]",
    *,
    protocol: str,
    judge: str,
    n: int,
    seed: int,
    out: Path,
    sampling: "Sampling | None" = None,
    title: str | None = None,
) -> "Evaluation":
    """Run a protocol, write its report into `out`, and say the numbers."""
    from efface.certificate import holding
    from efface.judges import open_judge
    from efface.protocols import PROTOCOLS
    from efface.report import write_report

    requests = [eraser.request for eraser in erasers.values()]
    alternatives = [
        word
        for request in requests
        for concept in request.concepts
        for word in (concept.name, concept.guide or "", *concept.adjacent)
    ] + [prompt for request in requests for prompt in request.preserve]
    chosen = open_judge(judge, tuple(dict.fromkeys(filter(None, alternatives))), str(model.device))
    with screen.progress() as progress:
        evaluation = PROTOCOLS.get(protocol).evaluate(
            model, erasers, chosen, out=out, n=n, sampling=sampling, seed=seed, progress=progress
        )
    certificates = {name: held for name, eraser in erasers.items() if (held := holding(model, eraser))}
    evaluation = replace(evaluation, certificates=certificates)
    write_report(evaluation, out, title)
    _tell(screen, evaluation)
    return evaluation


def _tell(screen: "Screen", evaluation: "Evaluation") -> None:
    from efface.protocols import BASE

    for name, result in evaluation.results.items():
        if name == BASE:
            continue
        screen.say()
        screen.heading(f"{name}: {verdict(erased_by(result), result).headline}")
        rows = [
            [
                metric,
                _short(result.base.get(metric)),
                _short(rate),
                _short(result.change.get(metric), "+"),
                str(rate.n),
            ]
            for metric, rate in result.metrics.items()
        ]
        screen.table(("rate, %", "before", "after", "change", "images"), rows)
        for concept, where in _went(result):
            screen.say(f"images prompted for {concept} went to: {where}")
    judge = evaluation.judge
    screen.say()
    screen.say(
        f"judge {judge.name}: recall {interval(judge.recall)}, false positives {interval(judge.false_positive_rate)}"
    )
    if evaluation.errors:
        screen.say(f"{evaluation.errors} images have no verdict and count in no rate; the report lists them.")


def _short(rate: "Rate | None", sign: str = "") -> str:
    """A rate, or with a sign a difference, in percent with its interval, short enough for a terminal."""
    if rate is None:
        return "–"
    value, low, high = (f"{100 * share:{sign}.1f}" for share in (rate.value, rate.low, rate.high))
    return f"{value} [{low}, {high}]"


def _went(result: "Result") -> list[tuple[str, str]]:
    """Where the images of each erased concept went, the most frequent first."""
    rows: list[tuple[str, str]] = []
    for concept, counts in result.went.items():
        total = sum(counts.values())
        ranked = sorted(((count, place) for place, count in counts.items() if count), reverse=True)
        rows.append((concept, ", ".join(f"{place} {percent(count / total)}" for count, place in ranked)))
    return rows
