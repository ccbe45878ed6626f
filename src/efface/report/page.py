"""One self-contained HTML page: no network, no library, everything escaped.

The content security policy lets nothing be fetched and runs one script, by its hash: what slipped through the escaping
could not run.
"""

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
from efface.protocols import Evaluation, Result
from efface.protocols.results import rank_key, ranking
from efface.report import provenance, words
from efface.report.destinations import PLACES, shares
from efface.report.failures import failures, unanswered
from efface.report.grids import TITLES, groups
from efface.report.judging import judging
from efface.report.plot import plots
from efface.report.rates import blocks, tables
from efface.report.series import Series, erasers_of, series_of
from efface.report.verdict import THRESHOLDS, Verdict, axes, erased_by, verdict

FIGURES = 3


@dataclass(frozen=True)
class Card:
    """What is said of one eraser at the top: the verdict and its main numbers."""

    of: Series
    name: str
    facts: Sequence[str]
    verdict: Verdict
    figures: Sequence[tuple[str, Measured]]
    certificate: Mapping[str, Mapping[str, float | None]]


def page(evaluation: Evaluation, title: str | None = None) -> str:
    """The HTML of a report.

    Args:
        evaluation: what was measured; its pictures are read from where they lie.
        title: the heading; by default it names what was erased.
    """
    open_ended, went = unanswered(evaluation), shares(evaluation)
    script, digest = _script()
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title or _title(evaluation),
            protocol=evaluation.protocol,
            cards=_cards(evaluation),
            plots=list(plots(evaluation)),
            comparisons=evaluation.comparisons,
            series=series_of(evaluation),
            groups=list(groups(evaluation)),
            failures=list(failures(evaluation)),
            blocks=blocks(evaluation),
            tables=tables(evaluation),
            shares=went,
            places=PLACES,
            titles=TITLES,
            went={place for rows in went.values() for share in rows for place in share.counts},
            judge=judging(evaluation),
            errors=evaluation.errors,
            undecided=sum(shot.undecided for shot in open_ended),
            number=count(1).__next__,
            unanswered=open_ended[: words.LISTED],
            unlisted=max(len(open_ended) - words.LISTED, 0),
            summary=provenance.summary(evaluation.provenance),
            provenance=list(provenance.flat(evaluation.provenance)),
            thresholds=THRESHOLDS,
            style=_source("style.css") + _source("pictures.css"),
            script=script,
            script_hash=digest,
        )
    )


def _title(evaluation: Evaluation) -> str:
    """What the report asks: whether it is forgotten or, where no probe is for what was erased, what else changed."""
    erasers = erasers_of(evaluation)
    if erased := dict.fromkeys(concept for result in erasers.values() for concept in erased_by(result)):
        return f"Did the model forget {words.listed(list(erased))}?"
    return f"What did {words.listed(list(erasers))} change?" if erasers else "The unedited model"


def _cards(evaluation: Evaluation) -> list[Card]:
    series = series_of(evaluation)
    return [
        Card(
            of=series[name],
            name=name,
            facts=_facts(name, evaluation),
            verdict=verdict(erased_by(result), result),
            figures=_figures(result),
            certificate=evaluation.certificates.get(name, {}),
        )
        for name, result in erasers_of(evaluation).items()
    ]


def _facts(name: str, evaluation: Evaluation) -> list[str]:
    """How the eraser was made and, where that is known, its place and how much the weights changed."""
    rank, change = _rank(name, evaluation.results), evaluation.results[name].weight_change
    return [
        *filter(None, [provenance.how(evaluation.provenance, name)]),
        *([f"#{rank} by err"] if rank and len(evaluation.results) > 2 else []),
        *([f"weights changed by {words.number(change)}"] if change else []),
    ]


def _rank(name: str, results: Mapping[str, Result]) -> int | None:
    """An eraser's place among those with a score over all; equals share it."""
    if "err" not in results[name].metrics:
        return None
    return 1 + [rank_key(results[key]) for key in ranking(results)].index(rank_key(results[name]))


def _figures(result: Result) -> list[tuple[str, Measured]]:
    """The numbers that say most: forgetting, keeping, the score over all; else the first that there are."""
    main = {metric: result.metrics[metric] for metric in (*axes(result), "err") if metric in result.metrics}
    return list((main or result.metrics).items())[:FIGURES]


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
    """A file of this package that goes into the page as it is."""
    return Markup((files("efface.report") / "template" / name).read_text(encoding="utf-8"))


def _script() -> tuple[Markup, str]:
    """The page's script, and its hash as the content security policy names it."""
    script = _source("enlarge.js")
    return script, "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
