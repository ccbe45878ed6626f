"""Forget and retain rates of one set of methods on both embedded models: what carries over to a flow transformer.

    python benchmarks/carry_over.py                 closed forms: ten objects, five styles; trained: five and three
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

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import efface
from closed_form_quality import STYLES
from efface.judges import open_judge
from efface.request.record import Kind
from pages import Page, machine, table, write
from quality import OBJECTS, Rows, Setting, interval, mean, of_setting, passed, run_all
from trained_quality import OBJECTS as FEW_OBJECTS
from trained_quality import STYLES as FEW_STYLES

MODELS = ("emoji", "emoji-flow")
IMAGES = 8
CLOSED = ("uce", "certified", "cure", "speed", "oce", "rece")
TRAINED = ("esd", "sepce")
SETTINGS = {method: Setting(method, guided=False) for method in CLOSED + TRAINED}
#: What was tried on `emoji-flow` for the methods without a row, with 12 images of prompts of a cat and 11 of others.
TRIED = """
Methods without a row:

- `ablate`: the keys and values of the text at a learning rate of 2.5e-4 for 60 steps leave the cat in 67% of images;
  all weights at 2.5e-4 for 60 steps and at 5e-4 for 80 leave no cat, and the other objects in 33% and 8%.
- `cie`: all attention at 3e-4 for 80 steps leaves no cat, and the other objects in 8%.
- `sld` at its published settings leaves the cat.
- `adavd`, `nullspace` and `robust` are written for the cross-attention of a U-Net or for one CLIP encoder, and are
  rejected with an error.
"""
COLUMNS = (("metrics", "forget"), ("metrics", "indirect"), ("change", "retain"))


def rows_of(content: dict[str, Rows], model: str, method: str) -> Rows:
    """The rows of one method, for the concepts that it was measured on."""
    return {name: settings for name, settings in content[model].items() if method in settings}


def page(content: dict[str, Rows]) -> Page:
    """The result page of the numbers in carry_over.json."""
    lines: list[list[str]] = []
    findings: list[str] = []
    for method in SETTINGS:
        means: list[str] = []
        for model in MODELS:
            rows = rows_of(content, model, method)
            some = of_setting(rows, method)
            cells = [interval(some, *column) for column in COLUMNS]
            lines.append([method, model, *cells, f"{sum(map(passed, some))} of {len(some)}"])
            lost = 100 * mean(some, "change", "retain")
            means.append(f"{mean(some, 'metrics', 'forget'):.0%} ({lost:+.1f})")
        findings.append(f"`{method}` {' and '.join(means)}")
    heads = ["method", "model", "forget", "indirect", "retain change", "concepts with 90% and 5 points"]
    body = f"""
Means over concepts, with 95% intervals from a bootstrap over concepts.

{table(heads, lines)}
{TRIED}"""
    return Page(
        "Which erasers carry over to a flow transformer",
        f"Mean forget rates, and points of retain rate, on `{MODELS[0]}` and on `{MODELS[1]}`, at the settings that "
        f"each model recommends: {'; '.join(findings)}.",
        body,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two concepts, few images; writes no result")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, help="measure only these methods; writes no result")
    parser.add_argument("--work", type=Path, default=Path("carry_over"), help="images and finished concepts")
    arguments = parser.parse_args()
    images, work = IMAGES, arguments.work
    if arguments.quick:
        images, work = 4, Path(tempfile.mkdtemp())
    judge = open_judge("emoji")
    content: dict[str, Rows] = {}
    for name in MODELS:
        model, rows = efface.open_model(name), content.setdefault(name, {})
        for methods, objects, styles in ((CLOSED, OBJECTS, STYLES), (TRAINED, FEW_OBJECTS, FEW_STYLES)):
            kinds: dict[str, Kind] = dict.fromkeys(objects, "object")
            kinds |= dict.fromkeys(styles, "style")
            concepts = list(kinds.items())
            settings = {method: SETTINGS[method] for method in methods if method in (arguments.only or SETTINGS)}
            if settings:
                place = work / name / ("closed" if methods is CLOSED else "trained")
                chosen = [concepts[0], concepts[-1]] if arguments.quick else concepts
                for concept, row in run_all(model, judge, chosen, settings, images, place).items():
                    rows.setdefault(concept, {}).update(row)
    if not arguments.only:
        result = page(content)
        print(f"\n{result.finding}\n\n{result.body}")
        if not arguments.quick:
            write("carry_over", content, result, machine(), f"judge {judge.name} {judge.version}")


if __name__ == "__main__":
    main()
