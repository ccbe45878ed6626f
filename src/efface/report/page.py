"""One self-contained HTML page: no network, no library, everything escaped.

The content security policy allows no request and runs one script, by its hash: text that escaped the escaping could
not run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import count
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from efface.metrics.base import Measured
from efface.protocols import Evaluation
from efface.report import words
from efface.report.bars import judge_section, rate_bars, score_tables
from efface.report.destinations import PLACES, DestinationShare, destination_shares
from efface.report.grids import failures, groups, title_of, unanswered
from efface.report.headline import THRESHOLDS, Headline, axes_of, erased_by, headline
from efface.report.plot import plots
from efface.report.timeline import timelines
from efface.report.words import Series, erasers_of, series_of

FIGURES = 3


@dataclass(frozen=True)
class Card:
    """The statement about one eraser at the top.

    Attributes:
        of: The eraser's title and colour.
        name: Its name.
        facts: Its method, place and change of weights, as far as they are known.
        headline: The headline.
        figures: The main numbers.
        certificate: By concept, how far the erasure can be undone.
    """

    of: Series
    name: str
    facts: Sequence[str]
    headline: Headline
    figures: Sequence[tuple[str, Measured]]
    certificate: Mapping[str, Mapping[str, float | None]]


def page(evaluation: Evaluation, title: str | None = None) -> str:
    """The HTML of a report.

    Args:
        evaluation: The evaluation; its pictures are read from their files.
        title: The heading; by default it names what was erased.
    """
    open_ended, shares = unanswered(evaluation), destination_shares(evaluation)
    script, digest = _script()
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title or _title(evaluation),
            protocol=evaluation.protocol,
            cards=_cards(evaluation),
            plots=list(plots(evaluation)),
            timelines=list(timelines(evaluation)),
            comparisons=evaluation.comparisons,
            series=series_of(evaluation),
            groups=list(groups(evaluation)),
            failures=list(failures(evaluation)),
            blocks=rate_bars(evaluation),
            tables=score_tables(evaluation),
            shares=shares,
            places=PLACES,
            titles=_titles(shares, evaluation),
            destinations={place for rows in shares.values() for share in rows for place in share.counts},
            judge=judge_section(evaluation),
            errors=evaluation.errors,
            undecided=sum(image.undecided for image in open_ended),
            number=count(1).__next__,
            unanswered=open_ended[: words.LISTED],
            unlisted=max(len(open_ended) - words.LISTED, 0),
            summary=words.provenance_summary(evaluation.provenance),
            provenance=list(words.provenance_rows(evaluation.provenance)),
            thresholds=THRESHOLDS,
            style=_source("style.css") + _source("pictures.css"),
            script=script,
            script_hash=digest,
        )
    )


def _title(evaluation: Evaluation) -> str:
    """The report's question: what was forgotten or, if no probe is for an erased concept, what else changed."""
    erasers = erasers_of(evaluation)
    if erased := dict.fromkeys(concept for name in erasers for concept in erased_by(evaluation, name)):
        return f"Did the model forget {words.listed(list(erased))}?"
    return f"What did {words.listed(list(erasers))} change?" if erasers else "The unedited model"


def _titles(shares: Mapping[str, Sequence[DestinationShare]], evaluation: Evaluation) -> dict[str, str]:
    """By metric of the destinations, the title of its probes."""
    return {share.metric: title_of(share.metric, evaluation) for rows in shares.values() for share in rows}


def _cards(evaluation: Evaluation) -> list[Card]:
    series = series_of(evaluation)
    return [
        Card(
            of=series[name],
            name=name,
            facts=_facts(name, evaluation),
            headline=headline(evaluation, name),
            figures=_figures(name, evaluation),
            certificate=result.certificate or {},
        )
        for name, result in erasers_of(evaluation).items()
    ]


def _facts(name: str, evaluation: Evaluation) -> list[str]:
    """The eraser's method and, if they are known, its place and the change of the weights."""
    place, change = _place(name, evaluation), evaluation.erasers[name].weight_change
    return [
        *filter(None, [words.method_of(evaluation.provenance, name)]),
        *([f"#{place} by {evaluation.overall}"] if place and len(evaluation.erasers) > 2 else []),
        *([f"weights changed by {words.number(change)}"] if change else []),
    ]


def _place(name: str, evaluation: Evaluation) -> int | None:
    """An eraser's place among those with an overall score; equals share it."""
    if name not in evaluation.ranking:
        return None
    return 1 + [evaluation.rank_key(other) for other in evaluation.ranking].index(evaluation.rank_key(name))


def _figures(name: str, evaluation: Evaluation) -> list[tuple[str, Measured]]:
    """The most important numbers: forgetting, retention, the overall score; else the first ones."""
    metrics = evaluation.erasers[name].metrics
    main = {metric: metrics[metric] for metric in (*axes_of(evaluation, name), evaluation.overall) if metric in metrics}
    return list((main or metrics).items())[:FIGURES]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("efface.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (words.percent, words.bounds, words.span, words.interval, words.points)
    shown += (words.number, words.counted, words.chance)
    filters: dict[str, Any] = {function.__name__: function for function in shown}
    environment.filters.update(filters)
    return environment


def _source(name: str) -> Markup:
    """A file of this package that goes into the page unchanged."""
    return Markup((files("efface.report") / "template" / name).read_text(encoding="utf-8"))


def _script() -> tuple[Markup, str]:
    """The page's script, and its hash as the content security policy needs it."""
    script = _source("enlarge.js")
    return script, "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
