"""Rates, scores and distances as bars with intervals; values of two feature extractors never stand in one table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from efface.metrics.base import Measured
from efface.protocols import BASE, Evaluation
from efface.report.series import Series, erasers_of, series_of
from efface.report.words import bounds, number, percent, points, signed

MEANINGS = {
    "forget": "the erased concept is absent from images prompted for it",
    "retain": "other concepts are found where they are prompted",
    "adjacent": "near neighbours of the erased concept are found",
    "indirect": "absent when prompted in other words",
    "adversarial": "absent under prompts that try to bring it back",
    "err": "harmonic mean of the rates above",
    "object_ua": "the erased object is absent from images prompted for it",
    "object_ira": "other objects are found where they are prompted",
    "object_cra": "styles are found where they are prompted",
    "style_ua": "the erased style is absent from images prompted for it",
    "style_ira": "other styles are found where they are prompted",
    "style_cra": "objects are found where they are prompted",
    "anchor": "what it was erased towards is found where it is prompted",
    "hard_negative": "what is easily taken for it is found where it is prompted",
    "accuracy_others": "other classes are recognised",
    "accuracy_erased": "the erased classes are recognised: less is better",
    "copies": "images that are copies of the memorised picture: less is better",
    "clip_score": "how well images go with their texts",
    "fid": "distance to other pictures: less is nearer",
    "kid": "distance to other pictures: less is nearer",
    "cmmd": "distance to other pictures: less is nearer",
    "fid_to_base": "distance to the unedited model's images: less is nearer",
}


@dataclass(frozen=True)
class Bar:
    """One number: a bar from 0 with a whisker, in shares of its scale, and in words."""

    title: str
    mark: str
    drawn: tuple[float, float, float]
    value: str
    bounds: str
    n: int
    change: str = ""


@dataclass(frozen=True)
class Block:
    """One metric, for the unedited model and every eraser."""

    metric: str
    meaning: str
    bars: Sequence[Bar]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """Metrics of one feature extractor."""

    extractor: str
    blocks: Sequence[Block]


def rate_bar(series: Series, rate: Measured, change: Measured | None = None, title: str | None = None) -> Bar:
    """A rate, in percent."""
    drawn = (rate.value, rate.low, rate.high)
    said = points(change) if change else ""
    return Bar(title or series.title, series.mark, drawn, percent(rate.value), bounds(rate), rate.n, said)


def blocks(evaluation: Evaluation) -> list[Block]:
    """The rates, those with a known meaning first; then the adversarial rate, attack by attack."""
    erasers = erasers_of(evaluation)
    found = dict.fromkeys(m for result in erasers.values() for m, rate in result.metrics.items() if rate.is_share)
    order = [metric for metric in MEANINGS if metric in found] + [metric for metric in found if metric not in MEANINGS]
    rates = [Block(metric, MEANINGS.get(metric, ""), list(_rates(metric, evaluation))) for metric in order]
    return [*rates, *_attacks(evaluation)]


def tables(evaluation: Evaluation) -> list[Table]:
    """What is no rate, one table for each feature extractor."""
    found: dict[str, dict[str, None]] = {}
    for result in erasers_of(evaluation).values():
        for metric, value in result.metrics.items():
            if not value.is_share:
                found.setdefault(value.extractor, {})[metric] = None
    return [
        Table(extractor, [block for metric in metrics if (block := _values(metric, extractor, evaluation)).bars])
        for extractor, metrics in found.items()
    ]


def before_of(metric: str, name: str, evaluation: Evaluation) -> Measured | None:
    """The unedited model's rate on an eraser's own prompts, or over all prompts where it has no other."""
    own = evaluation.results[name].base
    return own.get(metric) or evaluation.results[BASE].metrics.get(metric)


def _rates(metric: str, evaluation: Evaluation) -> Iterator[Bar]:
    """A bar for what was before, where that is the same for all erasers, else one for each."""
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


def _attacks(evaluation: Evaluation) -> Iterator[Block]:
    series, erasers = series_of(evaluation), erasers_of(evaluation)
    for attack in dict.fromkeys(name for result in erasers.values() for name in result.attacks):
        rates = [(series[name], result.attacks.get(attack)) for name, result in erasers.items()]
        bars = [rate_bar(of, rate) for of, rate in rates if rate]
        yield Block(f"adversarial: {attack}", "absent under prompts of this origin alone", bars)


def _values(metric: str, extractor: str, evaluation: Evaluation) -> Block:
    """One score or distance, before and after, on a scale from 0 to the largest that occurs."""
    rows: list[tuple[Series, Measured, Measured | None]] = []
    series = series_of(evaluation)
    for name, result in evaluation.results.items():
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
    return Block(metric, MEANINGS.get(metric, ""), bars, list(notes))
