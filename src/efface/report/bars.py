"""The numbers as bars with intervals: rates, scores, distances, and the judge's calibration.

What a metric means comes from the protocol's declarations (`Evaluation.metrics`) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from efface.metrics.base import Measured
from efface.metrics.rates import rate_with_interval
from efface.protocols import BASE, Evaluation
from efface.protocols.base import metric_named
from efface.protocols.plan import UNNAMED
from efface.report.words import Series, bounds, erasers_of, number, percent, points, series_of, signed


@dataclass(frozen=True)
class Bar:
    """One number.

    Attributes:
        title: The name of what was measured.
        mark: Its CSS class.
        drawn: The value and the ends of the interval, as shares of the scale.
        value: The value in words.
        bounds: The interval in words.
        n: Number of images.
        change: The change in words; may be empty.
    """

    title: str
    mark: str
    drawn: tuple[float, float, float]
    value: str
    bounds: str
    n: int
    change: str = ""


@dataclass(frozen=True)
class MetricBars:
    """The bars of one metric, for the unedited model and every eraser.

    Attributes:
        metric: The metric's name.
        meaning: Its meaning.
        bars: The numbers.
        notes: Remarks about them.
    """

    metric: str
    meaning: str
    bars: Sequence[Bar]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ExtractorTable:
    """The metrics of one feature extractor; numbers of two extractors are never in one table."""

    extractor: str
    blocks: Sequence[MetricBars]


@dataclass(frozen=True)
class JudgeSection:
    """The judge's calibration.

    Attributes:
        name: The judge's name.
        version: The version of its weights and settings.
        blocks: Recall and false positives, or agreement with the unedited model's verdicts.
        meaning: What they mean for the other rates.
        concepts: How often each concept is found where it is prompted by name, the least first.
    """

    name: str
    version: str
    blocks: Sequence[MetricBars]
    meaning: str
    concepts: Sequence[Bar]


def rate_bar(series: Series, rate: Measured, change: Measured | None = None, title: str | None = None) -> Bar:
    """A rate, in percent.

    Args:
        series: The model that it belongs to.
        rate: The rate.
        change: Its change.
        title: The bar's title; by default the model's.
    """
    drawn = (rate.value, rate.low, rate.high)
    words = points(change) if change else ""
    return Bar(title or series.title, series.mark, drawn, percent(rate.value), bounds(rate), rate.n, words)


def rate_bars(evaluation: Evaluation) -> list[MetricBars]:
    """The rates, declared ones first and in that order; then the adversarial rate, attack by attack."""
    erasers = erasers_of(evaluation)
    names = dict.fromkeys(m for result in erasers.values() for m, rate in result.metrics.items() if rate.is_share)
    declared = [
        name for metric in evaluation.metrics for name in names if metric_named(evaluation.metrics, name) is metric
    ]
    rates = [
        MetricBars(metric, _meaning(metric, evaluation), list(_rates(metric, evaluation)))
        for metric in dict.fromkeys((*declared, *names))
    ]
    return [*rates, *_by_attack(evaluation)]


def score_tables(evaluation: Evaluation) -> list[ExtractorTable]:
    """Scores and distances, one table for each feature extractor."""
    metrics_of: dict[str, dict[str, None]] = {}
    for result in erasers_of(evaluation).values():
        for metric, value in result.metrics.items():
            if not value.is_share:
                metrics_of.setdefault(value.extractor, {})[metric] = None
    return [
        ExtractorTable(
            extractor, [block for metric in metrics if (block := _scores(metric, extractor, evaluation)).bars]
        )
        for extractor, metrics in metrics_of.items()
    ]


def before_of(metric: str, name: str, evaluation: Evaluation) -> Measured | None:
    """The unedited model's rate on an eraser's own prompts, or over all prompts if there is none.

    Args:
        metric: The rate's name.
        name: The eraser's name.
        evaluation: The evaluation.
    """
    return evaluation.erasers[name].base.get(metric) or evaluation.erasers[BASE].metrics.get(metric)


def judge_section(evaluation: Evaluation) -> JudgeSection | None:
    """The calibration of an evaluation's judge; None if it was asked nothing."""
    judge = evaluation.judge
    if judge.recall is None and not any(result.images for result in evaluation.erasers.values()):
        return None
    blocks = [
        MetricBars(name, meaning, [rate_bar(_before("unedited model"), rate)])
        for name, meaning, rate in (
            ("recall", "it finds what was prompted", judge.recall),
            ("false positives", "it finds something that was not prompted", judge.false_positive_rate),
        )
        if rate is not None
    ]
    series = series_of(evaluation)
    agreeing = [
        rate_bar(series[name], result.agreement) for name, result in erasers_of(evaluation).items() if result.agreement
    ]
    if agreeing:
        blocks.append(MetricBars("agreement", "its answer is the one on the unedited model's image", agreeing))
    return JudgeSection(judge.name, judge.version, blocks, _reliability(judge.recall), _by_concept(evaluation))


def _meaning(metric: str, evaluation: Evaluation) -> str:
    """The declared meaning of a metric, its unit if it is no share, and the direction if less is better."""
    declared = metric_named(evaluation.metrics, metric)
    unit = f"in {declared.unit}" if declared.unit not in ("share", "") else ""
    direction = "less is better" if declared.better == "lower" else ""
    return "; ".join(filter(None, (declared.meaning, unit, direction)))


def _rates(metric: str, evaluation: Evaluation) -> Iterator[Bar]:
    """One bar for all erasers of what was before if it is the same for all, else one for each."""
    series = series_of(evaluation)
    erasers = {name: result for name, result in erasers_of(evaluation).items() if metric in result.metrics}
    before = {name: before_of(metric, name, evaluation) for name in erasers}
    shared = len(set(before.values())) == 1
    for place, (name, result) in enumerate(erasers.items()):
        rate, base = result.metrics[metric], before[name]
        if base and base.is_share and (place == 0 or not shared):
            yield rate_bar(series[BASE], base, title=None if shared else f"before {name}")
        if rate.is_share:
            yield rate_bar(series[name], rate, result.change.get(metric))


def _by_attack(evaluation: Evaluation) -> Iterator[MetricBars]:
    series, erasers = series_of(evaluation), erasers_of(evaluation)
    for attack in dict.fromkeys(name for result in erasers.values() for name in result.attacks):
        rates = [(series[name], result.attacks.get(attack)) for name, result in erasers.items()]
        bars = [rate_bar(of, rate) for of, rate in rates if rate]
        yield MetricBars(f"adversarial: {attack}", "absent under prompts of this origin alone", bars)


def _scores(metric: str, extractor: str, evaluation: Evaluation) -> MetricBars:
    """One score or distance, before and after, on a scale from 0 to the largest value."""
    rows: list[tuple[Series, Measured, Measured | None]] = []
    series = series_of(evaluation)
    for name, result in evaluation.erasers.items():
        value = result.metrics.get(metric)
        if value and value.extractor == extractor:
            change = result.change.get(metric)
            rows.append((series[name], value, change if change and change.kind == "score" else None))
    top = max((abs(value.high) for _, value, _ in rows), default=0) or 1.0
    bars = [
        Bar(
            of.title,
            of.mark,
            (value.value / top, value.low / top, value.high / top),
            number(value.value),
            f"{number(value.low)} to {number(value.high)}",
            value.n,
            f"{signed(change.value)}, {signed(change.low)} to {signed(change.high)}; {change.note}" if change else "",
        )
        for of, value, change in rows
    ]
    notes = dict.fromkeys(value.note for _, value, _ in rows if value.note)
    return MetricBars(metric, _meaning(metric, evaluation), bars, list(notes))


def _before(title: str) -> Series:
    return Series(BASE, title, "base")


def _reliability(recall: Measured | None) -> str:
    if recall is None:
        return (
            "No prompt names what it shows, so there is no recall: compare the rates with those of the unedited model."
        )
    if recall.value == 1:
        return "It finds all that the unedited model was asked for."
    return (
        f"It misses {percent(1 - recall.value)} of what the unedited model was asked for, badly generated or not "
        "known: that much looks forgotten without any eraser."
    )


def _by_concept(evaluation: Evaluation) -> list[Bar]:
    """Concepts by how often they are found in images whose prompt names them; whole prompts are resampled."""
    if evaluation.judge.recall is None:  # no prompt names a concept
        return []
    outcomes: dict[str, dict[str, list[float]]] = {}
    images = {(image.probe.concept, image.probe.job): image for image in evaluation.erasers[BASE].images}
    for image in images.values():
        if image.probe.metric not in UNNAMED and image.shows is not None:
            prompts = outcomes.setdefault(image.probe.concept, {})
            prompts.setdefault(image.probe.job.prompt, []).append(float(image.shows))
    rates = {concept: rate_with_interval(list(prompts.values())) for concept, prompts in outcomes.items()}
    ranked = sorted(rates.items(), key=lambda entry: (entry[1].value, entry[0]))
    return [rate_bar(_before(concept), rate) for concept, rate in ranked]
