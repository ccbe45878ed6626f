"""ESD: efface's training against a literal implementation of the published loop, one optimisation at a time.

    python benchmarks/esd_speed.py            two concepts, 200 steps; writes results/esd_speed.md and .json
    python benchmarks/esd_speed.py --quick    a few steps, no images; writes nothing

`literal` is the 2025 script's loop in float32: a second U-Net with gradients for all of its weights, a new guided
trajectory of 25 steps on average for each training step, and one forward pass for each prediction. Each row adds one
optimisation to the row above; the last is `efface erase --method esd` with its defaults. All train the same parameters,
with the same number of steps and learning rate. Each runs in a separate process; its peak memory is counted after the
libraries are loaded. The learning rate is ten times the published one, at which so small a model forgets little. The
erasers are then evaluated on the same images of the unedited model, so that the forget and retain rates show the cost
of an optimisation. The work folder stores finished cases, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

import efface
from efface.edits.kinds import WeightEdit
from efface.eraser.base_check import base_of
from efface.eraser.eraser import Eraser
from efface.methods.trained.denoiser_parameters import trained_parameters
from efface.models import Model
from efface.request.record import Request
from memory import megabytes
from pages import Page, machine, table, write

CONCEPTS = ("cat", "guitar")
TRAIN_METHOD, GUIDANCE, ETA, STEPS = "esd-x", 3.0, 2.0, 50

#: The optimisations of the literal loop, each added to those above.
LITERAL: dict[str, dict[str, bool]] = {
    "literal": {},
    "partial backward": {"frozen": True},
    "single U-Net": {"frozen": True, "single": True},
    "batched forwards": {"frozen": True, "single": True, "batched": True},
}
# With the concept itself as `erase_from`, the target is the same, but the teacher predicts it: three prompts per batch.
EFFACE: dict[str, dict[str, Any]] = {
    "trajectory reuse": {"erase_from": True},
    "cached targets (efface)": {},
}


@dataclass(frozen=True)
class Case:
    way: str
    concept: str
    iterations: int
    lr: float
    out: str


@dataclass(frozen=True)
class Outcome:
    seconds: float
    megabytes: float


def literal(
    model: Model, concept: str, iterations: int, lr: float, frozen: bool = False, single: bool = False,
    batched: bool = False,
) -> tuple[WeightEdit, ...]:  # fmt: skip
    """The published loop, with its optimisations."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    base = model.denoiser
    student = base if single else copy.deepcopy(base)
    names = trained_parameters(base, TRAIN_METHOD)
    originals = {name: base.get_parameter(name).detach().clone() for name in names}
    trained = {name: student.get_parameter(name) for name in names}
    for parameter in trained.values() if frozen else student.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(trained.values(), lr=lr)
    texts = model.embed(["", concept]).tokens
    null, concept_text = texts.split(1)
    ddim: Any = DDIMScheduler

    def predict(network: Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return network(x, t, encoder_hidden_states=text).sample

    def edited(values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            trained[name].data = value

    for step in range(iterations):
        generator = torch.Generator().manual_seed(step)
        scheduler = ddim.from_config(dict(model.scheduler_config), clip_sample=False)
        scheduler.set_timesteps(STEPS)
        stop = int(torch.randint(STEPS, (1,), generator=generator))
        x = torch.randn(1, base.config.in_channels, *[base.config.sample_size] * 2, generator=generator)
        student_values = {name: parameter.data for name, parameter in trained.items()}
        with torch.no_grad():
            if single:
                edited(originals)
            for t in scheduler.timesteps[:stop]:  # the pipeline batches its guidance
                e_null, e_concept = predict(base, torch.cat([x, x]), t, texts).chunk(2)
                x = scheduler.step(e_null + GUIDANCE * (e_concept - e_null), t, x).prev_sample
            t = scheduler.timesteps[stop]
            if batched:
                e_null, e_concept = predict(base, torch.cat([x, x]), t, texts).chunk(2)
                e_from = e_concept
            else:
                e_null, e_concept, e_from = (predict(base, x, t, text) for text in (null, concept_text, concept_text))
            target = e_from - ETA * (e_concept - e_null)
            if single:
                edited(student_values)
        loss = torch.nn.functional.mse_loss(predict(student, x, t, concept_text), target)
        loss.backward()
        optimizer.step()
        student.zero_grad()
    return tuple(
        WeightEdit(f"denoiser.{name}", delta=parameter.detach() - originals[name])
        for name, parameter in trained.items()
    )


def run(case: Case) -> Outcome:
    """Train in this process, and write the eraser."""
    load_libraries()
    before = start_of_peak()
    started = time.perf_counter()
    model = efface.open_model("emoji")
    if case.way in LITERAL:
        edits = literal(model, case.concept, case.iterations, case.lr, **LITERAL[case.way])
        request = Request.make(case.concept, method="esd")
        eraser = Eraser(request, edits, base_of(model, model.embed([case.concept])))
    else:
        options: dict[str, Any] = {"iterations": case.iterations, "lr": case.lr, "train_method": TRAIN_METHOD}
        if EFFACE[case.way].get("erase_from"):
            options["erase_from"] = case.concept
        eraser = efface.erase(model, case.concept, method="esd", preset="published", **options)
    outcome = Outcome(time.perf_counter() - started, megabytes("VmHWM") - before)
    eraser.save(case.out, force=True)
    return outcome


def load_libraries() -> None:
    """Import what either way imports, so that neither time nor memory counts it."""
    for library in ("accelerate", "diffusers.models.unets.unet_2d_condition", "diffusers.schedulers.scheduling_ddim"):
        import_module(library)
    efface.open_model("emoji").embed(["a"])
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([parameter])
    parameter.square().sum().backward()
    optimizer.step()


def start_of_peak() -> float:
    """Reset the peak memory of this process, and return its present memory."""
    Path("/proc/self/clear_refs").write_text("5")
    return megabytes("VmRSS")


def run_in_process(case: Case) -> Outcome:
    """Train in a separate process; cases in the work folder are not trained again."""
    stored, record = Path(case.out).with_suffix(".json"), asdict(case)
    if stored.exists() and (content := json.loads(stored.read_text()))["case"] == record:
        return Outcome(**content["outcome"])
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    outcome = json.loads(answer.splitlines()[-1])
    stored.write_text(json.dumps({"case": record, "outcome": outcome}))
    return Outcome(**outcome)


def evaluated(concept: str, erasers: dict[str, Path], n: int, work: Path) -> dict[str, dict[str, Any]]:
    """Forget and retain rates of each way, on the same images of the unedited model."""
    from efface.generation import Sampling
    from efface.judges import open_judge
    from efface.protocols import PROTOCOLS
    from efface.protocols.run import run_protocol

    model = efface.open_model("emoji")
    loaded = {name: Eraser.load(path) for name, path in erasers.items()}
    sampling = Sampling.default(model)
    entry, judge = PROTOCOLS.get("err"), open_judge("emoji")
    out = work / concept
    results = run_protocol(entry, model, loaded, judge, out=out, n=n, sampling=sampling, attacks=()).erasers
    return {name: {key: rate.as_dict() for key, rate in results[name].metrics.items()} for name in erasers}


def means(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The means of one way over concepts."""
    row: dict[str, Any] = {key: sum(run[key] for run in runs) / len(runs) for key in ("seconds", "megabytes")}
    for rate in ("forget", "retain"):
        values = [run["rates"][rate]["value"] for run in runs if rate in run.get("rates", {})]
        row[rate] = sum(values) / len(values) if values else None
    return row


def page(content: Any) -> Page:
    """The result page of the numbers in esd_speed.json."""
    rows = {way: means(runs) for way, runs in content["ways"].items()}
    first, last = rows["literal"], rows["cached targets (efface)"]
    lines: list[list[str]] = []
    for way, row in rows.items():
        cells = [way, f"{row['seconds']:.1f}", f"{first['seconds'] / row['seconds']:.1f}", f"{row['megabytes']:.0f}"]
        cells += [f"{row['megabytes'] / first['megabytes']:.0%}", percent(row["forget"]), percent(row["retain"])]
        lines.append(cells)
    finding = (
        f"efface trains ESD {first['seconds'] / last['seconds']:.1f} times as fast as a literal loop of the published "
        f"script, in {last['megabytes'] / first['megabytes']:.0%} of its memory; the forget rate is "
        f"{percent(last['forget'])} (literal: {percent(first['forget'])}), the retain rate {percent(last['retain'])} "
        f"({percent(first['retain'])})."
    )
    images = [run["rates"]["forget"]["n"] for run in content["ways"]["literal"] if "rates" in run]
    body = f"""
Means over {" and ".join(content["concepts"])}; {sum(images)} images per rate. Each row adds one optimisation to those
above it.

{table(["way", "seconds", "times faster", "peak MB", "of literal's", "forget", "retain"], lines)}
"""
    return Page("ESD: speed and memory of each optimisation", finding, body)


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps and no images; writes nothing")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--lr", type=float, default=5e-4, help="of Adam")
    parser.add_argument("-n", type=int, default=32, help="images a concept, for the judge")
    parser.add_argument("--work", type=Path, default=Path("esd_speed"), help="erasers and images")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(asdict(run(Case(**arguments.case)))))
        return
    concepts = CONCEPTS[:1] if arguments.quick else CONCEPTS
    iterations = 4 if arguments.quick else arguments.iterations
    work = Path(tempfile.mkdtemp()) if arguments.quick else arguments.work
    work.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in [*LITERAL, *EFFACE]}
    for concept in concepts:
        erasers = {f"way-{index}": work / f"{concept}-{index}.safetensors" for index in range(len(runs))}
        for way, path in zip(runs, erasers.values(), strict=True):
            outcome = run_in_process(Case(way, concept, iterations, arguments.lr, str(path)))
            runs[way].append(asdict(outcome))
            print(f"{concept}, {way}: {outcome.seconds:.1f} s, {outcome.megabytes:.0f} MB", flush=True)
        if not arguments.quick:
            for way, rates in zip(runs, evaluated(concept, erasers, arguments.n, work).values(), strict=True):
                runs[way][-1]["rates"] = rates
    content = {"concepts": CONCEPTS, "iterations": arguments.iterations, "lr": arguments.lr, "ways": runs}
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    if not arguments.quick:
        facts = f"{TRAIN_METHOD}, {arguments.iterations} steps at {arguments.lr:g} of {', '.join(CONCEPTS)}"
        write("esd_speed", content, result, machine(), facts)


if __name__ == "__main__":
    main()
