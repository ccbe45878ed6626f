"""Does `uce` make the embedded model forget, and what does that cost the rest?

    python benchmarks/uce_quality.py            ten objects and three styles, one at a time, two settings each
    python benchmarks/uce_quality.py --quick    one of each and few images, in a temporary folder; writes no result

Each concept is erased alone, towards the guide that the catalogue names, with the published defaults and with the
settings below that were found to work best on this model. The `err` protocol with its judge says what came of it, on
prompts over all styles, objects and templates. Images and numbers are kept under --work, so that an interrupted run
goes on where it stopped; writes results/uce_quality.md and .json.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

import efface
from efface.generate import Sampling
from efface.judges import Judge, open_judge
from efface.models import Model
from efface.models.emoji import catalogue
from efface.protocols import DESTINATIONS, Result
from efface.protocols.err import METRICS, evaluate
from efface.request import Request
from efface.settings import Scalar

RESULTS = Path(__file__).parent / "results"
OBJECTS = ("cat", "horse", "fish", "parrot", "church", "car", "sailboat", "apple", "guitar", "umbrella")
STYLES = ("line art", "pixel art", "blueprint")
IMAGES = 112

#: The catalogue's other objects or styles are preserved where `preserve` is set.
SETTINGS: dict[str, dict[str, Any]] = {
    "published (token)": {"options": {}, "preserve": False},
    "published (window)": {"options": {"variant": "window"}, "preserve": False},
    "best": {"options": {"variant": "window", "lamb": 0.1}, "preserve": True},
}


def request_of(concept: str, kind: str, setting: dict[str, Any]) -> Request:
    world = catalogue()
    entries = world.styles if kind == "style" else world.objects
    guide = next(entry.guide for entry in entries if entry.name == concept)
    others = [entry.name for entry in entries if entry.name not in (concept, guide)] if setting["preserve"] else []
    options: dict[str, Scalar] = setting["options"]
    return Request.make(concept, guide, kind=kind, preserve=others, options=options)


def row_of(result: Result, recall: float | None, wrong: float | None) -> dict[str, Any]:
    """What is kept of one concept under one setting."""
    return {
        "metrics": {name: rate.as_dict() for name, rate in result.metrics.items()},
        "base": {name: rate.as_dict() for name, rate in result.base.items()},
        "change": {name: rate.as_dict() for name, rate in result.change.items()},
        "went": next(iter(result.went.values())),
        "errors": result.errors,
        "recall": recall,
        "false_positive_rate": wrong,
    }


def run(model: Model, judge: Judge, concept: str, kind: str, n: int, work: Path) -> dict[str, Any]:
    """All settings of one concept, side by side on the same images of the unedited model."""
    requests = {name: request_of(concept, kind, setting) for name, setting in SETTINGS.items()}
    sampling = Sampling.default(model)
    facts = {
        "model": model.hash,
        "judge": judge.version,
        "n": n,
        "sampling": str(sampling),
        "requests": {name: request.model_dump(mode="json") for name, request in requests.items()},
    }
    kept = work / f"{concept.replace(' ', '-')}.json"
    if kept.exists() and (content := json.loads(kept.read_text()))["facts"] == facts:
        return content["rows"]
    erasers = {name: efface.erase(model, request) for name, request in requests.items()}
    # What is retained is the same for every setting, so one evaluation serves all.
    found = evaluate(model, erasers, judge, out=work / concept.replace(" ", "-"), n=n, sampling=sampling, progress=tell)
    recall, wrong = found.judge.recall, found.judge.false_positive_rate
    rows = {name: row_of(found.results[name], recall and recall.value, wrong and wrong.value) for name in requests}
    kept.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))
    return rows


def tell(what: str, done: int, total: int) -> None:
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


def table(found: dict[str, dict[str, dict[str, Any]]], setting: str) -> str:
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


def page(found: dict[str, dict[str, dict[str, Any]]], judge: Judge) -> str:
    lines = [
        "| setting | forget | base forget | retain | base retain | retain change | adjacent | indirect |",
        "|---" * 8 + "|",
    ]
    for name in SETTINGS:
        rows = [settings[name] for settings in found.values()]
        cells = [mean(rows, "metrics", "forget"), mean(rows, "base", "forget")]
        cells += [mean(rows, "metrics", "retain"), mean(rows, "base", "retain")]
        cells += [mean(rows, "change", "retain"), mean(rows, "metrics", "adjacent"), mean(rows, "metrics", "indirect")]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    parts = [f"## {name}\n\n`{json.dumps(setting)}`\n\n{table(found, name)}" for name, setting in SETTINGS.items()]
    return f"""# UCE on the embedded model

{len(found)} concepts, each erased alone; judge {judge.name} {judge.version}. Made by
`python benchmarks/uce_quality.py`, whose first lines say what is measured. Means over concepts, with 95% intervals from
a bootstrap over concepts; below, of each concept, intervals clustered by prompt. The last columns say where the images
prompted for the concept went, and how the judge did on the unedited model's images.

{chr(10).join(lines)}

{(chr(10) * 2).join(parts)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two concepts, few images; writes no result")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--judge", default="emoji")
    parser.add_argument("--work", type=Path, default=Path("uce_quality"), help="images and finished concepts")
    arguments = parser.parse_args()
    model, judge = efface.open_model(arguments.model), open_judge(arguments.judge)
    concepts = [(name, "object") for name in OBJECTS] + [(name, "style") for name in STYLES]
    if arguments.quick:
        concepts = [concepts[0], concepts[-1]]
        arguments.work = Path(tempfile.mkdtemp())
    arguments.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for concept, kind in concepts:
        print(concept, flush=True)
        found[concept] = run(model, judge, concept, kind, 8 if arguments.quick else IMAGES, arguments.work)
        rows = {name: row["metrics"] for name, row in found[concept].items()}
        print("  " + "; ".join(f"{name}: " + summary(rates) for name, rates in rows.items()), flush=True)
    text = page(found, judge)
    print("\n" + text)
    if not arguments.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "uce_quality.md").write_text(text, encoding="utf-8")
        (RESULTS / "uce_quality.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def summary(rates: dict[str, Any]) -> str:
    return ", ".join(f"{metric} {rates[metric]['value']:.0%}" for metric in METRICS if metric in rates)


if __name__ == "__main__":
    main()
