"""Forget and retain rates of one set of methods on both embedded models: what carries over to a flow transformer.

    python benchmarks/carry_over.py                 ten objects and five styles on both models
    python benchmarks/carry_over.py --only uce      measures some methods, and writes no result
    python benchmarks/carry_over.py --quick         two concepts and few images; writes no result

Each concept is erased alone as by `efface erase NAME --method METHOD`: with the guides and the settings that the model
recommends. The `err` protocol evaluates both models on the same prompts and seeds, with the same judge. A work folder
has the images and the numbers of each model, so an interrupted run resumes. Writes results/carry_over.md and .json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import efface
from closed_form_quality import STYLES
from efface.judges import open_judge
from efface.request.record import Kind
from pages import Page, machine, table, write
from quality import OBJECTS, Rows, Setting, interval, mean, of_setting, run_all

MODELS = ("emoji", "emoji-flow")
IMAGES = 8
METHODS = ("uce", "certified", "cure", "speed", "oce", "rece", "esd")
SETTINGS = {method: Setting(method, guided=False) for method in METHODS}
COLUMNS = (("metrics", "forget"), ("metrics", "indirect"), ("change", "retain"))


def good(rows: Rows, method: str) -> int:
    """Number of concepts that are forgotten in at least 90% of images, at most 5 points of the retain rate lost."""
    return sum(
        row["metrics"]["forget"]["value"] >= 0.9 and row["change"]["retain"]["value"] >= -0.05
        for row in of_setting(rows, method)
    )


def page(content: dict[str, Rows]) -> Page:
    """The result page of the numbers in carry_over.json."""
    first, second = MODELS
    methods = list(next(iter(content[first].values())))
    means = {
        model: {method: mean(of_setting(content[model], method), "metrics", "forget") for method in methods}
        for model in MODELS
    }
    findings = [f"{method} {means[first][method]:.0%} and {means[second][method]:.0%}" for method in methods]
    heads = ["method", "model", "forget", "indirect", "retain change", "concepts with 90% and 5 points"]
    lines: list[list[str]] = []
    for method in methods:
        for model in MODELS:
            rows = content[model]
            cells = [interval(of_setting(rows, method), *column) for column in COLUMNS]
            lines.append([method, model, *cells, f"{good(rows, method)} of {len(rows)}"])
    body = f"""
Means over concepts, with 95% intervals from a bootstrap over concepts.

{table(heads, lines)}
"""
    return Page(
        "Which erasers carry over to a flow transformer",
        f"Mean forget rates on `{first}` and on `{second}`, at the settings that each model recommends: "
        f"{'; '.join(findings)}.",
        body,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two concepts, few images; writes no result")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, help="measure only these methods; writes no result")
    parser.add_argument("--work", type=Path, default=Path("carry_over"), help="images and finished concepts")
    arguments = parser.parse_args()
    kinds: dict[str, Kind] = dict.fromkeys(OBJECTS, "object")
    kinds |= dict.fromkeys(STYLES, "style")
    concepts = list(kinds.items())
    settings = {label: SETTINGS[label] for label in arguments.only or SETTINGS}
    images = IMAGES
    if arguments.quick:
        concepts, images, arguments.work = [concepts[0], concepts[-1]], 4, Path(tempfile.mkdtemp())
    judge = open_judge("emoji")
    content: dict[str, Any] = {}
    for name in MODELS:
        content[name] = run_all(efface.open_model(name), judge, concepts, settings, images, arguments.work / name)
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    if not (arguments.quick or arguments.only):
        write("carry_over", content, result, machine(), f"judge {judge.name} {judge.version}")


if __name__ == "__main__":
    main()
