"""What the quality tables share: concepts erased one at a time, each by several settings, judged and tabled.

Images and numbers are kept under a work folder, so that an interrupted run goes on where it stopped.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import efface
from efface.generation import Sampling
from efface.judges import Judge
from efface.models import Model
from efface.models.emoji import catalogue
from efface.protocols import DESTINATIONS, Result
from efface.protocols.err import METRICS, evaluate
from efface.request.record import Concept, Kind, Request
from efface.settings import Scalar

RESULTS = Path(__file__).parent / "results"
OBJECTS = ("cat", "horse", "fish", "parrot", "church", "car", "sailboat", "apple", "guitar", "umbrella")
WEAPONS = "weapons"

Found = dict[str, dict[str, dict[str, Any]]]  # concept -> setting -> row


@dataclass(frozen=True)
class Setting:
    """How to erase.

    Attributes:
        method: name of the method.
        options: its settings.
        preserve: whether the catalogue's other objects or styles are preserved.
        guided: whether the method takes a guide.
        by_kind: how instead, where that is better for a kind of concept.
    """

    method: str = "uce"
    options: dict[str, Scalar] = field(default_factory=dict[str, Scalar])
    preserve: bool = False
    guided: bool = True
    by_kind: dict[Kind, "Setting"] = field(default_factory=dict[Kind, "Setting"])

    def __str__(self) -> str:
        """In a line of Markdown."""
        options = f" {json.dumps(self.options)}" if self.options else ""
        kinds = "".join(f"; kind {kind}: {setting}" for kind, setting in self.by_kind.items())
        return f"`{self.method}`{options}{', other names preserved' if self.preserve else ''}{kinds}"


def request_of(name: str, kind: Kind, setting: Setting) -> Request:
    """Erase one concept, or all weapons at once, towards the guide that the catalogue names."""
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
) -> dict[str, dict[str, Any]]:
    """All settings of one concept, side by side on the same images of the unedited model; what was measured before is
    not measured again."""
    sampling = Sampling.default(model)
    facts = {"model": model.hash, "judge": judge.version, "n": n, "sampling": str(sampling)}
    kept = work / f"{name.replace(' ', '-')}.json"
    content = json.loads(kept.read_text()) if kept.exists() else {}
    measured: dict[str, Any] = content["settings"] if content.get("facts") == facts else {}
    requests = {said: request_of(name, kind, setting) for said, setting in settings.items()}
    asked = {said: request.model_dump(mode="json") for said, request in requests.items()}
    missing = [said for said in requests if said not in measured or measured[said]["request"] != asked[said]]
    erasers = {said: efface.erase(model, requests[said]) for said in missing}
    if erasers:
        found = evaluate(
            model,
            erasers,
            judge,
            out=work / name.replace(" ", "-"),
            # Several concepts at once share the images.
            n=max(2, n // max(len(request.concepts) for request in requests.values())),
            sampling=sampling,
            progress=tell,
            attacks=(),  # robust.py has those
        )
        recall, wrong = found.judge.recall, found.judge.false_positive_rate
        for said, eraser in erasers.items():
            row = row_of(found.results[said], recall and recall.value, wrong and wrong.value)
            row |= {"seconds": sum(eraser.provenance["seconds"].values()), "bytes": eraser.nbytes}
            measured[said] = {"request": asked[said], "row": row}
        kept.write_text(json.dumps({"facts": facts, "settings": measured}, indent=1))
    return {said: measured[said]["row"] for said in settings}


def run_all(
    model: Model, judge: Judge, concepts: list[tuple[str, Kind]], settings: dict[str, Setting], n: int, work: Path
) -> Found:
    """`run` for each concept, with a line about each."""
    work.mkdir(parents=True, exist_ok=True)
    found: Found = {}
    for name, kind in concepts:
        print(name, flush=True)
        found[name] = run(model, judge, name, kind, settings, n, work)
        rows = {said: row["metrics"] for said, row in found[name].items()}
        print("  " + "; ".join(f"{said}: " + summary(rates) for said, rates in rows.items()), flush=True)
    return found


def keep(found: Found, text: str, name: str) -> None:
    """Write the page and the numbers behind it."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def row_of(result: Result, recall: float | None, wrong: float | None) -> dict[str, Any]:
    """What is kept of one concept under one setting."""
    return {
        "metrics": {name: rate.as_dict() for name, rate in result.metrics.items()},
        "base": {name: rate.as_dict() for name, rate in result.base.items()},
        "change": {name: rate.as_dict() for name, rate in result.change.items()},
        "went": {where: sum(went.get(where, 0) for went in result.went.values()) for where in DESTINATIONS},
        "errors": result.errors,
        "recall": recall,
        "false_positive_rate": wrong,
    }


def tell(what: str, done: int, total: int, note: str = "") -> None:
    if done == total:
        print(f"  {what}: {total}", flush=True)


def mean(rows: list[dict[str, Any]], where: str, metric: str) -> str:
    """Mean over concepts, with a bootstrap over concepts."""
    values = np.array([row[where][metric]["value"] for row in rows if metric in row[where]])
    if not len(values):
        return ""
    chosen = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(values[chosen].mean(1), (2.5, 97.5))
    return f"{values.mean():.1%} [{low:.1%}, {high:.1%}]"


def table(found: Found, setting: str) -> str:
    """One setting: a line a concept."""
    lines = [
        "| concept | forget | base forget | retain | base retain | change | adjacent | indirect | "
        + " | ".join(DESTINATIONS)
        + " | recall | false positives |",
        "|---" * (10 + len(DESTINATIONS)) + "|",
    ]
    for concept, settings in found.items():
        row = settings[setting]
        cells = [concept, rate(row["metrics"], "forget"), rate(row["base"], "forget")]
        cells += [rate(row["metrics"], "retain"), rate(row["base"], "retain")]
        cells += [rate(row["change"], "retain"), rate(row["metrics"], "adjacent"), rate(row["metrics"], "indirect")]
        cells += [str(row["went"].get(where, 0)) for where in DESTINATIONS]
        cells += ["" if row[key] is None else f"{row[key]:.1%}" for key in ("recall", "false_positive_rate")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rate(rates: dict[str, Any], metric: str) -> str:
    if metric not in rates:
        return ""
    value = rates[metric]
    return f"{value['value']:.1%} [{value['low']:.1%}, {value['high']:.1%}] n={value['n']}"


def overview(found: Found) -> str:
    """A line a setting: means over concepts."""
    heads = ["setting", "forget", "base forget", "retain", "base retain", "retain change", "adjacent", "indirect"]
    heads += ["seconds", "bytes"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in next(iter(found.values())):
        rows = [settings[name] for settings in found.values()]
        cells = [mean(rows, "metrics", "forget"), mean(rows, "base", "forget")]
        cells += [mean(rows, "metrics", "retain"), mean(rows, "base", "retain")]
        cells += [mean(rows, "change", "retain"), mean(rows, "metrics", "adjacent"), mean(rows, "metrics", "indirect")]
        cells += [
            f"{np.median([row['seconds'] for row in rows]):.2f}",
            f"{np.median([row['bytes'] for row in rows]):,.0f}",
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def details(found: Found, settings: dict[str, Setting]) -> str:
    """A table a setting."""
    parts = [f"## {name}\n\n{setting}\n\n{table(found, name)}" for name, setting in settings.items()]
    return "\n\n".join(parts)


def summary(rates: dict[str, Any]) -> str:
    return ", ".join(f"{metric} {rates[metric]['value']:.0%}" for metric in METRICS if metric in rates)
