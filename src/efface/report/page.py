"""One self-contained HTML page: no network, no library, everything escaped."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from efface.metrics.rates import Rate
from efface.protocols import BASE, Evaluation, Result, Shot
from efface.report.pictures import Pair, inlined, pairs, spread
from efface.report.verdict import THRESHOLDS, Verdict, interval, listed, percent, points, verdict

SHOWN = 12
LISTED = 50

MEANINGS = {
    "forget": "the erased concept is absent from images prompted for it",
    "retain": "other concepts are found where they are prompted",
    "adjacent": "near neighbours of the erased concept are found",
    "indirect": "absent when prompted in other words",
    "adversarial": "absent under prompts that try to bring it back",
    "err": "harmonic mean of the rates above",
}
PLACES = {
    "concept": "the erased concept came through",
    "undecided": "the judge does not know whether it did",
    "guide": "what it was erased towards",
    "other": "another concept that the judge knows",
    "nothing": "nothing the judge recognises",
    "broken": "blank or noise",
    "error": "no verdict",
}


@dataclass(frozen=True)
class Picture:
    """A pair on the page; pictures are data addresses, None where there is no image."""

    prompt: str
    before: str | None
    after: str | None
    seen: str
    caption: str
    failed: bool


@dataclass(frozen=True)
class Grid:
    """Pairs under a title."""

    title: str
    note: str
    pairs: Sequence[Picture]


@dataclass(frozen=True)
class Bars:
    """The bars of one metric."""

    label: str
    series: Sequence[tuple[str, Rate]]

    @property
    def height(self) -> int:
        """What the bars take in the chart, in the view box's units."""
        return 24 * len(self.series) + 8


@dataclass(frozen=True)
class Line:
    """One row of the table of rates."""

    metric: str
    meaning: str
    before: Rate | None
    after: Rate
    change: Rate | None


@dataclass(frozen=True)
class Section:
    """What the page says of one eraser."""

    name: str
    how: str
    verdict: Verdict
    grids: Sequence[Grid]
    bars: Sequence[Bars]
    table: Sequence[Line]
    went: Mapping[str, Mapping[str, int]]
    certificate: Mapping[str, Mapping[str, float | None]]
    failures: Sequence[Any]


def page(evaluation: Evaluation, title: str | None = None) -> str:
    """The HTML of a report.

    Args:
        evaluation: what was measured; its pictures are read from where they lie.
        title: the heading; by default it names what was erased.
    """
    base = evaluation.results[BASE]
    results = {name: result for name, result in evaluation.results.items() if name != BASE}
    sections = [_section(name, base, result, evaluation) for name, result in results.items()]
    erased = dict.fromkeys(concept for result in results.values() for concept in erased_by(result))
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title or (f"Did the model forget {listed(list(erased))}?" if erased else "The unedited model"),
            protocol=evaluation.protocol,
            model=_text(evaluation.provenance.get("model", "")),
            errors=evaluation.errors,
            erasers=sections,
            judge=evaluation.judge,
            destinations=PLACES,
            provenance=list(_flat(evaluation.provenance)),
            footer=THRESHOLDS,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("efface.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, interval=interval, rate=interval, points=points)
    return environment


def erased_by(result: Result) -> tuple[str, ...]:
    """The concepts that an eraser's forget probes ask for, in the plan's order."""
    return tuple(dict.fromkeys(shot.probe.concept for shot in result.shots if shot.probe.metric == "forget"))


def _section(name: str, base: Result, result: Result, evaluation: Evaluation) -> Section:
    return Section(
        name=name,
        how=_how(evaluation.provenance, name),
        verdict=verdict(erased_by(result), result),
        grids=list(_grids(base, result)),
        bars=[
            Bars(metric, [(key, rate) for key, rate in ((BASE, result.base.get(metric)), (name, after)) if rate])
            for metric, after in result.metrics.items()
        ],
        table=[
            Line(metric, MEANINGS.get(metric, ""), result.base.get(metric), after, result.change.get(metric))
            for metric, after in result.metrics.items()
        ],
        went=result.went,
        certificate=evaluation.certificates.get(name, {}),
        failures=[shot for shot in result.shots if shot.error is not None],
    )


def _how(provenance: Mapping[str, Any], name: str) -> str:
    eraser = provenance.get("erasers", {}).get(name, {})
    return str(eraser.get("method", "")) if isinstance(eraser, Mapping) else ""


def _grids(base: Result, result: Result) -> Iterator[Grid]:
    for concept in erased_by(result):
        found = pairs(base, result, "forget", concept)
        yield _grid(
            f"Prompted for “{concept}”: before and after", found, spread(found, SHOWN), "the same prompt and seed"
        )
        failed = [pair for pair in found if pair.failed]
        if failed:
            yield _grid(f"Where “{concept}” came through", failed, spread(failed, SHOWN), "the judge still finds it")
    for metric, title in (
        ("adjacent", "Near neighbours, which should stay"),
        ("retain", "The rest, which should stay"),
    ):
        found = pairs(base, result, metric)
        if found:
            yield _grid(title, found, spread(found, SHOWN), "the same prompt and seed")


def _grid(title: str, found: Sequence[Pair], shown: Sequence[Pair], what: str) -> Grid:
    count = (
        f"all {len(found)}" if len(shown) == len(found) else f"{len(shown)} of {len(found)}, spread over the prompts"
    )
    return Grid(title, f"Left before, right after; {what}. Shown: {count}.", [_picture(pair) for pair in shown])


def _picture(pair: Pair) -> Picture:
    before, after = pair.before, pair.after
    job = after.probe.job
    seen = f"judge sees: {_seen(before)} → {_seen(after)}"
    caption = f"“{job.prompt}”, seed {job.seed}. Left before, right after; {seen} (score {after.score:.2f})."
    return Picture(job.prompt, inlined(before.path), inlined(after.path), seen, caption, pair.failed)


def _seen(shot: Shot) -> str:
    return "no verdict" if shot.found is None else shot.saw or "nothing"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested record as rows of a table."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return _text(value.get("name", ""))
    if isinstance(value, list | tuple):
        shown = [_text(item) for item in value[:LISTED]]
        return ", ".join(shown if len(value) <= LISTED else [*shown, f"and {len(value) - LISTED} more"])
    return str(value)
