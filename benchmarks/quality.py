"""Shared code of the quality benchmarks: each concept is erased alone, by several settings, and evaluated.

A work folder stores images and numbers, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import efface
from efface.eraser.recommended import with_recommended
from efface.generation import Sampling
from efface.judges import Judge, open_judge
from efface.models import Model
from efface.models.emoji import catalogue
from efface.protocols import DESTINATIONS, PROTOCOLS, Result
from efface.protocols.err import RATES
from efface.protocols.run import run_protocol
from efface.request.record import Concept, Kind, Request
from efface.settings import Scalar
from pages import Page, machine, table, write

OBJECTS = ("cat", "horse", "fish", "parrot", "church", "car", "sailboat", "apple", "guitar", "umbrella")
WEAPONS = "weapons"

Row = dict[str, Any]
Rows = dict[str, dict[str, Row]]  # concept -> setting -> row


@dataclass(frozen=True)
class Setting:
    """A method with its settings.

    Attributes:
        method: The name of the method.
        options: Its settings.
        preserve: Whether the catalogue's other objects or styles are preserved.
        guided: Whether the method uses a guide.
        by_kind: Other settings for kinds of concepts for which they work better.
    """

    method: str = "uce"
    options: dict[str, Scalar] = field(default_factory=dict[str, Scalar])
    preserve: bool = False
    guided: bool = True
    by_kind: dict[Kind, Setting] = field(default_factory=dict[Kind, "Setting"])

    def __str__(self) -> str:
        """The setting as a line of Markdown."""
        options = f" {json.dumps(self.options)}" if self.options else ""
        kinds = "".join(f"; kind {kind}: {setting}" for kind, setting in self.by_kind.items())
        return f"`{self.method}`{options}{', other names preserved' if self.preserve else ''}{kinds}"


def request_of(name: str, kind: Kind, setting: Setting) -> Request:
    """A request for one concept, or for all weapons at once, with the guides of the catalogue."""
    world, setting = catalogue(), setting.by_kind.get(kind, setting)
    entries = world.styles if kind == "style" else world.objects
    chosen = [entry for entry in world.objects if entry.theme] if name == WEAPONS else []
    chosen = chosen or [entry for entry in entries if entry.name == name]
    guides = {entry.name: entry.guide for entry in chosen}
    others = [entry.name for entry in entries if entry.name not in {*guides, *guides.values()}]
    return Request(
        concepts=tuple(
            Concept(name=concept, kind=kind, guide=guide if setting.guided else None)
            for concept, guide in guides.items()
        ),
        preserve=tuple(others) if setting.preserve else (),
        method=setting.method,
        options=setting.options,
    )


def run(
    model: Model, judge: Judge, name: str, kind: Kind, settings: dict[str, Setting], n: int, work: Path
) -> dict[str, Row]:
    """All settings of one concept on the same images of the unedited model.

    Settings in the work folder are not measured again, unless the model recommends others since then.
    """
    sampling = Sampling.default(model)
    facts = {"model": model.hash, "judge": judge.version, "n": n, "sampling": str(sampling)}
    stored = work / f"{name.replace(' ', '-')}.json"
    content = json.loads(stored.read_text()) if stored.exists() else {}
    measured: dict[str, Any] = content["settings"] if content.get("facts") == facts else {}
    requests = {label: request_of(name, kind, setting) for label, setting in settings.items()}
    completed = {label: with_recommended(model, request)[0] for label, request in requests.items()}
    records = {label: request.model_dump(mode="json") for label, request in completed.items()}
    missing = [label for label in requests if label not in measured or measured[label]["request"] != records[label]]
    erasers = {label: efface.erase(model, requests[label]) for label in missing}
    if erasers:
        # Concepts that are erased together share the images.
        each = max(2, n // max(len(request.concepts) for request in requests.values()))
        rows = evaluated(model, erasers, judge, each, work / name.replace(" ", "-"))
        for label, eraser in erasers.items():
            row = rows[label] | {"seconds": sum(eraser.provenance["seconds"].values()), "bytes": eraser.nbytes}
            measured[label] = {"request": records[label], "row": row}
        stored.write_text(json.dumps({"facts": facts, "settings": measured}, indent=1))
    return {label: measured[label]["row"] for label in settings}


def evaluated(model: Model, erasers: Mapping[str, efface.Eraser], judge: Judge, n: int, out: Path) -> dict[str, Row]:
    """The row of each eraser by the `err` protocol, without attacks, which robust.py has."""
    sampling = Sampling.default(model)
    evaluation = run_protocol(
        PROTOCOLS.get("err"),
        model,
        erasers,
        judge,
        out=out,
        n=n,
        sampling=sampling,
        progress=print_progress,
        attacks=(),
    )
    recall, wrong = evaluation.judge.recall, evaluation.judge.false_positive_rate
    return {
        label: row_of(result, recall and recall.value, wrong and wrong.value)
        for label, result in evaluation.erasers.items()
        if label in erasers
    }


def run_all(
    model: Model, judge: Judge, concepts: list[tuple[str, Kind]], settings: dict[str, Setting], n: int, work: Path
) -> Rows:
    """`run` for each concept, with a printed line for each."""
    work.mkdir(parents=True, exist_ok=True)
    rows: Rows = {}
    for name, kind in concepts:
        print(name, flush=True)
        rows[name] = run(model, judge, name, kind, settings, n, work)
        lines = [f"{label}: {summary(row['metrics'])}" for label, row in rows[name].items()]
        print("  " + "; ".join(lines), flush=True)
    return rows


def benchmark(
    name: str,
    doc: str,
    concepts: list[tuple[str, Kind]],
    settings: dict[str, Setting],
    n: int,
    page: Callable[[Any], Page],
) -> None:
    """The command line of a benchmark of these concepts and settings: measure, print, and write the result.

    Args:
        name: The name of the result and of the work folder.
        doc: The script's docstring.
        concepts: The concepts with their kinds; `--quick` measures the first and the last.
        settings: The settings by label.
        n: The images of each rate; 8 with `--quick`.
        page: Makes the result page of the measured rows.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two concepts, few images; writes no result")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--judge", default="emoji")
    parser.add_argument("--work", type=Path, default=Path(name), help="images and finished concepts")
    parser.add_argument("--only", nargs="+", choices=settings, help="measure only these settings; writes no result")
    arguments = parser.parse_args()
    model, judge = efface.open_model(arguments.model), open_judge(arguments.judge)
    if arguments.only:
        run_all(model, judge, concepts, {label: settings[label] for label in arguments.only}, n, arguments.work)
        return
    if arguments.quick:
        concepts, n = [concepts[0], concepts[-1]], 8
        arguments.work = Path(tempfile.mkdtemp())
    content = run_all(model, judge, concepts, settings, n, arguments.work)
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    if not arguments.quick:
        write(name, content, result, machine(), f"judge {judge.name} {judge.version}")


def row_of(result: Result, recall: float | None, wrong: float | None) -> Row:
    """The stored numbers of one concept under one setting."""
    return {
        "metrics": {name: rate.as_dict() for name, rate in result.metrics.items()},
        "base": {name: rate.as_dict() for name, rate in result.base.items()},
        "change": {name: rate.as_dict() for name, rate in result.change.items()},
        "went": {
            where: sum(went.get(where, 0) for went in result.destinations["forget"].values()) for where in DESTINATIONS
        },
        "errors": result.errors,
        "recall": recall,
        "false_positive_rate": wrong,
    }


def print_progress(what: str, done: int, total: int, note: str = "") -> None:
    if done == total:
        print(f"  {what}: {total}", flush=True)


def mean(rows: list[Row], part: str, metric: str) -> float:
    """The mean over concepts."""
    return float(np.mean([row[part][metric]["value"] for row in rows if metric in row[part]]))


def interval(rows: list[Row], part: str, metric: str) -> str:
    """The mean over concepts, with a bootstrap over concepts."""
    values = np.array([row[part][metric]["value"] for row in rows if metric in row[part]])
    if not len(values):
        return ""
    chosen = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(values[chosen].mean(1), (2.5, 97.5))
    return f"{values.mean():.1%} [{low:.1%}, {high:.1%}]"


def by_concept(rows: Rows, setting: str) -> str:
    """The table of one setting, with a line per concept."""
    heads = ["concept", "forget", "base forget", "retain", "base retain", "change", "adjacent", "indirect"]
    heads += [*DESTINATIONS, "recall", "false positives"]
    lines: list[list[str]] = []
    for concept, settings in rows.items():
        if setting not in settings:
            continue
        row = settings[setting]
        cells = [concept, rate(row["metrics"], "forget"), rate(row["base"], "forget")]
        cells += [rate(row["metrics"], "retain"), rate(row["base"], "retain")]
        cells += [rate(row["change"], "retain"), rate(row["metrics"], "adjacent"), rate(row["metrics"], "indirect")]
        cells += [str(row["went"].get(where, 0)) for where in DESTINATIONS]
        cells += ["" if row[key] is None else f"{row[key]:.1%}" for key in ("recall", "false_positive_rate")]
        lines.append(cells)
    return table(heads, lines)


def rate(rates: dict[str, Any], metric: str) -> str:
    if metric not in rates:
        return ""
    value = rates[metric]
    return f"{value['value']:.1%} [{value['low']:.1%}, {value['high']:.1%}] n={value['n']}"


def passed(row: Row) -> bool:
    """Whether at least 90% are forgotten and at most 5 points of retain rate lost."""
    lost = row["base"]["retain"]["value"] - row["metrics"]["retain"]["value"]
    return row["metrics"]["forget"]["value"] >= 0.9 and lost <= 0.05


def of_setting(rows: Rows, name: str) -> list[Row]:
    """The rows of one setting, over all concepts that it was measured for."""
    return [settings[name] for settings in rows.values() if name in settings]


def overview(rows: Rows) -> str:
    """The table of means over concepts, with a line per setting."""
    heads = ["setting", "forget", "base forget", "retain", "base retain", "retain change", "adjacent", "indirect"]
    columns = [(part, metric) for metric in ("forget", "retain") for part in ("metrics", "base")]
    columns += [("change", "retain"), ("metrics", "adjacent"), ("metrics", "indirect")]
    lines: list[list[str]] = []
    for name in next(iter(rows.values())):
        of_name = of_setting(rows, name)
        cells = [name, *(interval(of_name, *column) for column in columns)]
        cells.append(f"{np.median([row['seconds'] for row in of_name]):.2f}")
        cells.append(f"{np.median([row['bytes'] for row in of_name]):,.0f}")
        lines.append(cells)
    return table([*heads, "seconds", "bytes"], lines)


def details(rows: Rows, settings: dict[str, Setting]) -> str:
    """A table for each setting."""
    parts = [f"## {name}\n\n{setting}\n\n{by_concept(rows, name)}" for name, setting in settings.items()]
    return "\n\n".join(parts)


def summary(rates: dict[str, Any]) -> str:
    return ", ".join(f"{metric} {rates[metric]['value']:.0%}" for metric in RATES if metric in rates)
