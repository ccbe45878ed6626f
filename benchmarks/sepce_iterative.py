"""Erase six concepts, restore one, erase another: the effect of each step on all concepts.

    python benchmarks/sepce_iterative.py            writes results/sepce_iterative.md and .json
    python benchmarks/sepce_iterative.py --quick    three concepts, few steps and images, in a temporary folder

The iterative scenario of SepCE (arXiv 2402.05947) on the embedded model, for `sepce` and for `cie`, which trains the
same way without null spaces:
1. Six objects are erased in one request. The change of each one leaves the other five and the empty prompt unchanged.
2. The first of them is restored: its change is removed.
3. A new object is erased. Its change leaves the six earlier ones unchanged; the earlier changes do not account for it.
An object is erased, restored, erased later, or in no request. The numbers of each object at each step:
- `keys and values`: the relative change of the keys and values of the object's tokens over all layers, for its bare
  name (whose tokens the null spaces protect) and for sentences with it and a style (which have other tokens);
- `found`: the number of images in which the judge finds it; `base found`: the same for the unedited model;
- `pixels`: the mean absolute change of these images (0 to 255) from the unedited model's images with the same seeds;
- `identical`: the number of these images that are bitwise equal to the unedited model's.
The work folder stores erasers, images and finished steps, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

import efface
from attacks import prompts, unseen
from efface import Eraser, Request, RunContext
from efface.generation import Job, Sampling, generate_images
from efface.judges import Judge, open_judge
from efface.methods.training.checkpoints import discard
from efface.metrics.rates import wilson
from efface.models import Model
from pages import Page, machine, table, write
from quality import Setting

FIRST = ("cat", "horse", "fish", "parrot", "church", "car")
NEW, OTHERS = "sailboat", ("apple", "guitar", "umbrella")
IMAGES = 24
SETTINGS = {
    "sepce": Setting("sepce", {"scale_factor": 0.01, "threshold": 0.0, "iter_break": 300}, guided=False),
    "cie": Setting("cie", {"lr": 1e-4, "threshold": 0.0, "iter_break": 300}, guided=False),
}
QUICK = {"iter_break": 15, "images": 4, "sampling_steps": 4}

Row = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """The objects that are erased first, the one erased later, the others, and the number of images."""

    first: Sequence[str] = FIRST
    new: str = NEW
    others: Sequence[str] = OTHERS
    n: int = IMAGES

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.first, self.new, *self.others)

    def prompts(self, name: str) -> dict[str, list[str]]:
        """The prompts of an object."""
        return {"bare": [name], "sentences": prompts([name], self.n, unseen(name))}

    def state(self, step: int, name: str) -> str:
        """The state of an object after a step."""
        if name in self.others:
            return "in no request"
        if name == self.new:
            return "erased" if step == 3 else "erased later"
        return "restored" if step > 1 and name == self.first[0] else "erased"


#: The steps, by the keys of the JSON file.
STEPS = {1: "the first are erased", 2: "one is given back", 3: "another is erased"}


def erased(model: Model, scenario: Scenario, setting: Setting, work: Path) -> dict[int, Eraser]:
    """The erasers of the three steps."""

    def eraser_of(names: Sequence[str], preserve: Sequence[str]) -> Eraser:
        path = work / f"{setting.method}-{len(names)}.safetensors"
        request = Request.make(
            names,
            preserve=preserve if setting.method == "sepce" else (),
            method=setting.method,
            options=setting.options,
        )
        if path.exists() and (stored := Eraser.load(path)).request == request:
            return stored
        folder = path.with_suffix(".training")
        eraser = efface.erase(model, request, context=RunContext(folder, force=True), preset="published")
        eraser.save(path, force=True)
        discard(folder)
        return eraser

    first = eraser_of(scenario.first, ())
    rest = first.without(scenario.first[0])
    return {1: first, 2: rest, 3: efface.compose(rest, eraser_of([scenario.new], scenario.first))}


def moved(model: Model, eraser: Eraser, texts: Sequence[str]) -> float:
    """The relative change of the keys and values of some prompts over all layers."""
    tokens = model.embed(texts).tokens.flatten(0, 1).T
    readers = [model.denoiser.get_parameter(name).detach() for name in model.text_parameters()]
    before = [weight @ tokens for weight in readers]
    with eraser.attach(model):
        after = [weight @ tokens for weight in readers]
    change = sum(float((new - old).square().sum()) for new, old in zip(after, before, strict=True))
    return (change / sum(float(old.square().sum()) for old in before)) ** 0.5


def drawn(model: Model, eraser: Eraser | None, texts: Sequence[str], n: int, out: Path) -> np.ndarray[Any, Any]:
    """Images of shape (n, H, W, 3), image k with seed k."""
    jobs = [Job(texts[index % len(texts)], index) for index in range(n)]
    images = generate_images(model, jobs, Sampling.default(model), out=out, eraser=eraser, use_cache=eraser is None)
    return np.stack([image.pixels() for image in images])


def measured(model: Model, judge: Judge, scenario: Scenario, eraser: Eraser, out: Path) -> dict[str, Row]:
    """Each object under one eraser."""
    rows: dict[str, Row] = {}
    for name in scenario.names:
        rows[name] = {}
        for how, texts in scenario.prompts(name).items():
            plain = drawn(model, None, texts, scenario.n, out.parent / "base")
            edited = drawn(model, eraser, texts, scenario.n, out)
            counts = [int((judge.scores(some, [name]) >= judge.threshold(name)).sum()) for some in (plain, edited)]
            rows[name][how] = {
                "moved": moved(model, eraser, texts),
                "base found": counts[0],
                "found": counts[1],
                "pixels": float(np.abs(plain.astype(np.float64) - edited).mean()),
                "identical": int((plain == edited).reshape(scenario.n, -1).all(1).sum()),
                "n": scenario.n,
            }
    return rows


def run(model: Model, judge: Judge, scenario: Scenario, setting: Setting, work: Path) -> dict[str, dict[str, Row]]:
    """The three steps of one method; steps in the work folder are not measured again."""
    steps: dict[str, dict[str, Row]] = {}
    for step, eraser in erased(model, scenario, setting, work).items():
        facts = {
            "model": model.hash,
            "judge": judge.version,
            "sampling": str(Sampling.default(model)),
            "scenario": str(scenario),
            "eraser": eraser.hash,
            "measures": list(WHAT),
        }
        stored = work / f"{setting.method}-step-{step}.json"
        if stored.exists() and (content := json.loads(stored.read_text()))["facts"] == facts:
            steps[STEPS[step]] = content["rows"]
            continue
        rows = measured(model, judge, scenario, eraser, work / f"{setting.method}-step-{step}")
        stored.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))
        steps[STEPS[step]] = rows
        print(f"{setting.method}, {STEPS[step]}: " + summary(rows), flush=True)
    return steps


def summary(rows: dict[str, Row]) -> str:
    return ", ".join(f"{name} {row['bare']['found']}/{row['bare']['n']}" for name, row in rows.items())


def details(steps: dict[str, dict[str, Row]], scenario: Scenario) -> str:
    """A line per step and object."""
    heads = ["step", "object", "state", *(f"{what}, {how}" for how in ("bare", "sentences") for what in WHAT)]
    lines: list[list[str]] = []
    for step, title in STEPS.items():
        for name, row in steps[title].items():
            cells = [str(step), name, scenario.state(step, name)]
            for how in ("bare", "sentences"):
                one = row[how]
                cells += [f"{one['moved']:.1e}", rate(one["found"], one["n"]), rate(one["base found"], one["n"])]
                cells += [f"{one['pixels']:.2f}", f"{one['identical']} of {one['n']}"]
            lines.append(cells)
    return table(heads, lines)


def by_state(rows: dict[str, Row], scenario: Scenario, step: int) -> dict[str, list[Row]]:
    """The rows of the objects of each state after a step."""
    states: dict[str, list[Row]] = {}
    for name, row in rows.items():
        states.setdefault(scenario.state(step, name), []).append(row)
    return states


def total(rows: list[Row], key: str) -> int:
    """A number of images over objects, bare and in sentences."""
    return sum(row[how][key] for row in rows for how in ("bare", "sentences"))


def overview(content: dict[str, dict[str, dict[str, Row]]], scenario: Scenario) -> str:
    """A line per setting, step and state, over the objects of that state."""
    lines: list[list[str]] = []
    for label, steps in content.items():
        for step, title in STEPS.items():
            for state, rows in by_state(steps[title], scenario, step).items():
                counts = [f"{total(rows, key)} of {total(rows, 'n')}" for key in ("found", "base found")]
                pixels = [f"{np.mean([row[how]['pixels'] for row in rows]):.2f}" for how in ("bare", "sentences")]
                lines.append([label, str(step), f"{len(rows)} {state}", *counts, *pixels])
    return table(["setting", "step", "objects", "found", "base found", "pixels, bare", "pixels, sentences"], lines)


WHAT = ("keys and values", "found", "base found", "pixels", "identical")


def rate(count: int, n: int) -> str:
    value = wilson(count, n)
    return f"{count} of {n} [{value.low:.0%}, {value.high:.0%}]"


def page(content: Any, scenario: Scenario | None = None) -> Page:
    """The result page of the numbers in sepce_iterative.json."""
    scenario = scenario or Scenario()
    (_, last), first_title = list(STEPS.items())[-1], STEPS[1]
    states = by_state(content["sepce"][last], scenario, 3)

    def counts(state: str) -> str:
        rows = states[state]
        return f"{total(rows, 'found')} of {total(rows, 'n')} images"

    others = by_state(content["cie"][first_title], scenario, 1)["in no request"]
    finding = (
        f"With `sepce`, after erasing {len(scenario.first)} objects, restoring one and erasing another, the erased "
        f"objects are found in {counts('erased')}, the restored one in {counts('restored')}, and objects in no request "
        f"in {counts('in no request')} (unedited model: {total(states['in no request'], 'base found')}); with `cie`, "
        f"which protects no prompt, the sum of {len(scenario.first)} changes leaves objects in no request in "
        f"{total(others, 'found')} of {total(others, 'n')}."
    )
    parts = [
        f"## {label}\n\n`{SETTINGS[label].method}` {json.dumps(SETTINGS[label].options)}\n\n{details(steps, scenario)}"
        for label, steps in content.items()
    ]
    body = f"""
Step 1 erases {", ".join(scenario.first)}; step 2 restores {scenario.first[0]}; step 3 erases {scenario.new}.
Intervals are Wilson's, at 95%. They assume independent images: images of one prompt are independent, images of several
prompts only in part.

{overview(content, scenario)}

A restored concept is drawn as before: bitwise if nothing else is attached, and up to rounding beside other components,
whose changes pass through the same layers even where their null spaces leave the concept unchanged. `cie` protects no
prompt: each of its changes is small enough for its own concept, but the model with the sum of six, and also of five,
draws nothing recognisable.

{(2 * chr(10)).join(parts)}
"""
    return Page("Erase six concepts, restore one, erase another", finding, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three concepts, few steps and images; writes no result")
    parser.add_argument("--work", type=Path, default=Path("sepce_iterative"), help="erasers, images, finished steps")
    arguments = parser.parse_args()
    model, judge = efface.open_model("emoji"), open_judge("emoji")
    scenario, settings = Scenario(), dict(SETTINGS)
    if arguments.quick:
        arguments.work = Path(tempfile.mkdtemp())
        scenario = Scenario(FIRST[:2], NEW, OTHERS[:1], 2)
        settings = {label: Setting(one.method, {**one.options, **QUICK}) for label, one in settings.items()}
    arguments.work.mkdir(parents=True, exist_ok=True)
    content = {label: run(model, judge, scenario, setting, arguments.work) for label, setting in settings.items()}
    result = page(content, scenario)
    print(f"\n{result.finding}\n\n{result.body}")
    if not arguments.quick:
        write("sepce_iterative", content, result, machine(), f"judge {judge.name} {judge.version}")


if __name__ == "__main__":
    main()
