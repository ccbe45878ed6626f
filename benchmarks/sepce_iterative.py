"""Six concepts are erased, one is given back, another is erased: what becomes of all the others at each step?

    python benchmarks/sepce_iterative.py            writes results/sepce_iterative.md and .json
    python benchmarks/sepce_iterative.py --quick    three concepts, few steps and images, in a temporary folder

The iterative scenario of SepCE (arXiv 2402.05947) on the embedded model, for `sepce` and, as the same without null
spaces, `cie`:
1. six objects are erased in one request, so that each one's change spares the other five and the empty prompt;
2. the first of them is given back: its change is left out;
3. a new object is erased; its change spares the six that came before, but theirs were not told of it.
At each step and of each object, erased, given back, new, or never asked for:
- `keys and values`: relative change of what all layers make of the object's tokens, for its bare name (that is what
  is protected) and for sentences with it and a style, which have other tokens;
- `found`: in how many images the judge finds it, bare and in sentences;
- `pixels`: mean absolute change of the same images, from the unedited model's with the same seeds, of 255;
- `identical`: how many of these images are the unedited model's, bit for bit.
Erasers, images and finished steps are kept under --work, so that an interrupted run goes on where it stopped.
"""

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
import torch

import efface
from attacks import prompts, unseen
from efface import Eraser, Request, RunContext
from efface.generation import Job, Sampling, generate
from efface.judges import Judge, open_judge
from efface.methods.training.checkpoints import discard
from efface.metrics.rates import wilson
from efface.models import Model
from quality import Setting, keep

FIRST = ("cat", "horse", "fish", "parrot", "church", "car")
NEW, OTHERS = "sailboat", ("apple", "guitar", "umbrella")
IMAGES = 24
SETTINGS = {
    "sepce": Setting("sepce", {"scale_factor": 0.01, "threshold": 0.0, "iter_break": 300}, guided=False),
    "cie": Setting("cie", {"lr": 1e-4, "threshold": 0.0, "iter_break": 300}, guided=False),
}
QUICK = {"iter_break": 15, "images": 4, "sampling_steps": 4}

Row = dict[str, Any]
Found = dict[str, dict[str, dict[str, Row]]]  # setting -> step -> object -> row


@dataclass(frozen=True)
class Scenario:
    """Who is erased first and then, who is watched beside them, by how many images."""

    first: Sequence[str] = FIRST
    new: str = NEW
    others: Sequence[str] = OTHERS
    n: int = IMAGES

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.first, self.new, *self.others)

    def said(self, name: str) -> dict[str, list[str]]:
        """Prompts of an object."""
        return {"bare": [name], "sentences": prompts([name], self.n, unseen(name))}

    def fate(self, step: int, name: str) -> str:
        """What was done to an object up to a step."""
        if name in self.others:
            return "never asked for"
        if name == self.new:
            return "erased" if step == 3 else "not yet"
        return "given back" if step > 1 and name == self.first[0] else "erased"


STEPS = {1: "the first are erased", 2: "one is given back", 3: "another is erased"}


def erased(model: Model, scenario: Scenario, setting: Setting, work: Path) -> dict[int, Eraser]:
    """The erasers of the three steps."""

    def made(names: Sequence[str], preserve: Sequence[str]) -> Eraser:
        path = work / f"{setting.method}-{len(names)}.safetensors"
        request = Request.make(
            names,
            preserve=preserve if setting.method == "sepce" else (),
            method=setting.method,
            options=setting.options,
        )
        if path.exists() and (kept := Eraser.load(path)).request == request:
            return kept
        folder = path.with_suffix(".training")
        eraser = efface.erase(model, request, work=RunContext(folder, force=True))
        eraser.save(path, force=True)
        discard(folder)
        return eraser

    first = made(scenario.first, ())
    rest = first.without(scenario.first[0])
    return {1: first, 2: rest, 3: efface.compose(rest, made([scenario.new], scenario.first))}


def moved(model: Model, eraser: Eraser, texts: Sequence[str]) -> float:
    """How far all layers' keys and values of some prompts move, relative to what they were."""
    tokens = model.embed(texts).tokens.flatten(0, 1).T
    readers = [model.denoiser.get_parameter(name).detach() for name in model.text_parameters()]
    before = [weight @ tokens for weight in readers]
    with eraser.attach(model):
        after = [weight @ tokens for weight in readers]
    change = sum(float((new - old).square().sum()) for new, old in zip(after, before, strict=True))
    return (change / sum(float(old.square().sum()) for old in before)) ** 0.5


def drawn(model: Model, eraser: Eraser | None, texts: Sequence[str], n: int, out: Path) -> np.ndarray[Any, Any]:
    """n images (n, H, W, 3), image k from seed k."""
    jobs = [Job(texts[index % len(texts)], index) for index in range(n)]
    images = generate(model, jobs, Sampling.default(model), out=out, eraser=eraser, use_cache=eraser is None)
    return np.stack([image.pixels() for image in images])


def measured(model: Model, judge: Judge, scenario: Scenario, eraser: Eraser, out: Path) -> dict[str, Row]:
    """Each object under one eraser."""
    rows: dict[str, Row] = {}
    for name in scenario.names:
        rows[name] = {}
        for how, texts in scenario.said(name).items():
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
    """The three steps of one method; what was measured before is not measured again."""
    found: dict[str, dict[str, Row]] = {}
    for step, eraser in erased(model, scenario, setting, work).items():
        facts = {
            "model": model.hash,
            "judge": judge.version,
            "sampling": str(Sampling.default(model)),
            "scenario": str(scenario),
            "eraser": eraser.hash,
            "measures": list(WHAT),
        }
        kept = work / f"{setting.method}-step-{step}.json"
        if kept.exists() and (content := json.loads(kept.read_text()))["facts"] == facts:
            found[STEPS[step]] = content["rows"]
            continue
        rows = measured(model, judge, scenario, eraser, work / f"{setting.method}-step-{step}")
        kept.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))
        found[STEPS[step]] = rows
        print(f"{setting.method}, {STEPS[step]}: " + summary(rows), flush=True)
    return found


def summary(rows: dict[str, Row]) -> str:
    return ", ".join(f"{name} {row['bare']['found']}/{row['bare']['n']}" for name, row in rows.items())


def table(found: dict[str, dict[str, Row]], scenario: Scenario) -> str:
    """A line an object and step."""
    heads = ["step", "object", "", *(f"{what}, {how}" for how in ("bare", "sentences") for what in WHAT)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for step, title in STEPS.items():
        for name, row in found[title].items():
            cells = [str(step), name, scenario.fate(step, name)]
            for how in ("bare", "sentences"):
                one = row[how]
                cells += [f"{one['moved']:.1e}", rate(one["found"], one["n"]), rate(one["base found"], one["n"])]
                cells += [f"{one['pixels']:.2f}", f"{one['identical']} of {one['n']}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def overview(found: Found, scenario: Scenario) -> str:
    """A line a setting, step and fate, over the objects of that fate."""
    lines = ["| setting | step | objects | found | base found | pixels, bare | pixels, sentences |", "|---" * 7 + "|"]
    for said, steps in found.items():
        for step, title in STEPS.items():
            fates: dict[str, list[dict[str, Row]]] = {}
            for name, row in steps[title].items():
                fates.setdefault(scenario.fate(step, name), []).append(row)
            for fate, rows in fates.items():
                every = [row[how] for row in rows for how in ("bare", "sentences")]
                n = sum(one["n"] for one in every)
                counts = [f"{sum(one[key] for one in every)} of {n}" for key in ("found", "base found")]
                moved = [f"{np.mean([row[how]['pixels'] for row in rows]):.2f}" for how in ("bare", "sentences")]
                lines.append("| " + " | ".join([said, str(step), f"{len(rows)} {fate}", *counts, *moved]) + " |")
    return "\n".join(lines)


WHAT = ("keys and values", "found", "base found", "pixels", "identical")


def rate(count: int, n: int) -> str:
    found = wilson(count, n)
    return f"{count} of {n} [{found.low:.0%}, {found.high:.0%}]"


def page(found: Found, scenario: Scenario, judge: Judge) -> str:
    parts = [
        f"## {said}\n\n`{SETTINGS[said].method}` {json.dumps(SETTINGS[said].options)}\n\n{table(steps, scenario)}"
        for said, steps in found.items()
    ]
    first = ", ".join(scenario.first)
    return f"""# Erase six, give one back, erase another

torch {torch.__version__}; judge {judge.name} {judge.version}. Made by `python benchmarks/sepce_iterative.py`, whose
first lines say what is measured. First are {first}; {scenario.first[0]} is given back, and then {scenario.new} erased.
Intervals are Wilson's, at 95%; they take images for independent, which those of one prompt are, and those of several
are only in part.

{overview(found, scenario)}

A concept that is given back is drawn as before: bitwise when nothing else is attached, to rounding beside other
components, whose changes pass through the same layers even where their null spaces leave the concept alone.
`cie` spares nothing: each of its changes is small enough for its own concept, and six of them added up draw nothing at
all, nor does one fewer.

{(2 * chr(10)).join(parts)}
"""


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
        settings = {said: Setting(one.method, {**one.options, **QUICK}) for said, one in settings.items()}
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = {said: run(model, judge, scenario, setting, arguments.work) for said, setting in settings.items()}
    text = page(found, scenario, judge)
    print("\n" + text)
    if not arguments.quick:
        keep(found, text, "sepce_iterative")


if __name__ == "__main__":
    main()
