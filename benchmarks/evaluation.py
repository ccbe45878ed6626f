"""Evaluating on the embedded model: images a second with their verdicts, and what `efface evaluate` takes.

    python benchmarks/evaluation.py            writes results/evaluation.md and .json (half an hour)
    python benchmarks/evaluation.py --quick    a few images; writes nothing

(a) images drawn, written, judged and their verdicts kept, against the denoiser alone at its best batch size: the
    ceiling; and against a plain loop that calls the pipeline and then the judge, with the same sampler and steps.
(b) the default sampler against that loop with 50 DDIM steps, and how often the verdicts agree.
(c) the time of `efface evaluate ERASER --protocol err` at its default size, from start to report, with an empty cache;
    then of a second eraser of the same concept, and of one of another; and of `--protocol unlearncanvas` for the first,
    with an empty cache again.

The machine may be busy: what is compared in (a) and (b) is measured in turns, and the ratio is the median over the
rounds. (c) is measured once.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

import efface
from efface.generation import Job, Sampling
from efface.judges import Judge, open_judge
from efface.metrics.rates import wilson
from efface.models import Model
from efface.models.emoji import catalogue
from efface.protocols import Probe
from efface.protocols.answers import judged
from generation import (
    BATCHES,
    REFERENCE,
    denoiser_alone,
    images_of,
    in_turns,
    jobs_of_the_world,
    pipeline_loop,
    ratio,
    seconds,
)

RESULTS = Path(__file__).parent / "results"
OURS, CEILING = "efface, with verdicts", "denoiser alone"
PARTS = ("command", "canvas", "speed", "agreement")
BARS = {"ceiling": 0.8, "default sampler": 3.0, "agreement": 0.98, "minutes": 3.0, "canvas": 10.0, "second": 0.6}


def questions() -> tuple[str, ...]:
    world = catalogue()
    return tuple(thing.name for thing in (*world.objects, *world.styles))


def ours(model: Model, eraser: efface.Eraser, judge: Judge, jobs: list[Job], sampling: Sampling) -> None:
    """What a protocol does with each of its models; with an eraser on it, no image comes out of the cache."""
    probes = [Probe("retain", "cat", job) for job in jobs]
    with tempfile.TemporaryDirectory() as folder:
        judged(model, probes, judge, questions(), sampling, Path(folder), "eraser", eraser)


def plain(model: Model, judge: Judge, jobs: list[Job], sampling: Sampling) -> np.ndarray:
    """What people write: for each prompt a pipeline call, then the judge."""
    scores = [judge.scores(pipeline_loop(model, [job], sampling, 1)[0][None], questions()) for job in jobs]
    return np.concatenate(scores)


def speed(model: Model, judge: Judge, sampling: Sampling, n: int, rounds: int) -> dict[str, Any]:
    """Part (a), and the ratio of (b)."""
    trial = {f"{b}": (denoiser_alone(model, sampling, b), b) for b in BATCHES if b <= n}
    best = max(trial, key=lambda name: statistics.median(in_turns(2, {name: trial[name]})[name]))
    sampling = replace(sampling, batch_size=int(best))
    jobs, eraser = jobs_of_the_world(n, 0), efface.erase(model, "cat", "dog")
    few = jobs[: max(2, n // 8)]
    reference = replace(sampling, sampler="ddim", steps=REFERENCE)
    slow = f"pipeline then judge, {REFERENCE} DDIM steps"
    works: dict[str, tuple[Callable[[], object], int]] = {
        CEILING: trial[best],
        OURS: (lambda: ours(model, eraser, judge, jobs, sampling), n),
        "pipeline then judge, equal settings": (lambda: plain(model, judge, few, sampling), len(few)),
        slow: (lambda: plain(model, judge, few, reference), len(few)),
    }
    rates = in_turns(rounds, works)
    return {
        "batch_size": int(best),
        "images_a_second": {name: statistics.median(values) for name, values in rates.items()},
        "efface_over": {name: ratio(rates, OURS, name) for name in works if name != OURS},
        "reference": slow,
    }


def agreement(model: Model, judge: Judge, sampling: Sampling, n: int) -> dict[str, Any]:
    """How often all verdicts on an image are those on the image of 50 DDIM steps."""
    jobs = jobs_of_the_world(n, 1000)
    bars = np.array([judge.threshold(question) for question in questions()])
    ways = (sampling, replace(sampling, sampler="ddim", steps=REFERENCE))
    one, other = (judge.scores(images_of(model, jobs, how), questions()) >= bars for how in ways)
    return wilson(int((one == other).all(1).sum()), n).as_dict()


def evaluated(name: str, eraser: efface.Eraser, folder: Path, *asked: str) -> float:
    """Seconds of `efface evaluate`."""
    path = folder / f"{name.replace(' ', '-')}.safetensors"
    eraser.save(path)
    run = [sys.executable, "-m", "efface.cli", "evaluate", str(path), *asked, "-o", str(path.with_suffix(""))]
    environment = {**os.environ, "EFFACE_CACHE": str(folder / "cache")}
    took = seconds(lambda: subprocess.run(run, env=environment, check=True, capture_output=True))
    print(f"{name}: {took:.1f} s", flush=True)
    return took


def command(quick: bool) -> dict[str, float]:
    """Part (c): the first eraser, another of the same concept, and one of another concept."""
    model = efface.open_model("emoji")
    erasers = {
        "first": efface.erase(model, "cat", "dog"),
        "second": efface.erase(model, "cat", "dog", method="certified"),
        "other concept": efface.erase(model, "bicycle", "car"),
    }
    size = ("-n", "8") if quick else ()
    with tempfile.TemporaryDirectory() as folder:
        return {name: evaluated(name, eraser, Path(folder), *size) for name, eraser in erasers.items()}


def canvas(quick: bool) -> float:
    """The other protocol of part (c)."""
    size = ("-n", "1", "-s", "only=cat,dog,flat,3d") if quick else ()
    with tempfile.TemporaryDirectory() as folder:
        eraser = efface.erase("emoji", "cat", "dog")
        return evaluated("unlearncanvas", eraser, Path(folder), "-p", "unlearncanvas", *size)


def page(model: Model, found: dict[str, Any]) -> str:
    """The results, with what was asked of them."""
    rates, over = found["speed"]["images_a_second"], found["speed"]["efface_over"]
    lines = ["| way | images a second | efface is |", "|---|---|---|"]
    lines += [
        f"| {name} | {rate:.2f} | {f'{over[name]:.2f}x' if name in over else ''} |" for name, rate in rates.items()
    ]
    same, took, slow = found["agreement"], found["command"], found["speed"]["reference"]
    bars = [
        ("of the denoiser-only ceiling", over[CEILING], "at least", BARS["ceiling"], "{:.0%}"),
        (
            "times the plain loop of 50 DDIM steps",
            over[slow],
            "at least",
            BARS["default sampler"],
            "{:.1f}",
        ),
        ("verdicts that agree with those", same["value"], "at least", BARS["agreement"], "{:.1%}"),
        ("minutes of `efface evaluate`", took["first"] / 60, "under", BARS["minutes"], "{:.1f}"),
        (
            "of that time for a second eraser of the concept",
            took["second"] / took["first"],
            "at most",
            BARS["second"],
            "{:.0%}",
        ),
        ("of that time for an eraser of another", took["other concept"] / took["first"], "", None, "{:.0%}"),
        ("minutes of `--protocol unlearncanvas`", found["canvas"] / 60, "under", BARS["canvas"], "{:.1f}"),
    ]
    lines += ["", "| | measured | asked |", "|---|---|---|"]
    for what, value, how, bar, shape in bars:
        asked = "" if bar is None else f"{how} {shape.format(bar)}"
        lines.append(f"| {what} | {shape.format(value)} | {asked} |")
    setting = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, model {model.name}"
    return f"""# Evaluating

{setting}; {found["sampling"]}, batches of {found["speed"]["batch_size"]}. Made by
`python benchmarks/evaluation.py`, whose first lines say what is compared. Agreement is over {same["n"]} images, 95%
interval {same["low"]:.1%} to {same["high"]:.1%}.

{chr(10).join(lines)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few images; writes nothing")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="measure these parts again; keep the others")
    arguments = parser.parse_args()
    model, judge, quick = efface.open_model("emoji"), open_judge("emoji"), arguments.quick
    sampling = Sampling.default(model)
    n, rounds, images = (8, 1, 8) if quick else (192, 3, 200)
    parts: dict[str, Callable[[], Any]] = {
        "command": lambda: command(quick),
        "canvas": lambda: canvas(quick),
        "speed": lambda: speed(model, judge, sampling, n, rounds),
        "agreement": lambda: agreement(model, judge, sampling, images),
    }
    kept = json.loads((RESULTS / "evaluation.json").read_text()) if arguments.only else {}
    found = kept | {name: part() for name, part in parts.items() if name in (arguments.only or PARTS)}
    found["sampling"] = f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance}"
    text = page(model, found)
    print("\n" + text)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "evaluation.md").write_text(text, encoding="utf-8")
        (RESULTS / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
