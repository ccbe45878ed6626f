"""Evaluation on the embedded model: judged images per second, and the time of `efface evaluate`.

    python benchmarks/evaluation.py            writes results/evaluation.md and .json (half an hour)
    python benchmarks/evaluation.py --quick    a few images; writes nothing

(a) The rate of images that are generated, written, judged and stored with their verdicts, against the denoiser alone at
    its best batch size (the upper bound), and against a plain loop that calls the pipeline and then the judge, with the
    same sampler and steps.
(b) The default sampler against that loop with 50 DDIM steps, and the share of images with the same verdicts.
(c) The time of `efface evaluate ERASER --protocol err` with its default number of images, from start to report, with an
    empty cache; then for a second eraser of the same concept, and for an eraser of another concept; and the time of
    `--protocol unlearncanvas` for the first eraser, with an empty cache.

The machine may be busy, so the ways compared in (a) and (b) take turns, and the ratio is the median over the rounds.
(c) is measured once.
"""

from __future__ import annotations

import argparse
import json
import os
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

import efface
from efface.generation import Job, Sampling
from efface.judges import Judge, open_judge
from efface.metrics.rates import wilson
from efface.models import Model
from efface.models.emoji import catalogue
from efface.protocols import Plan, Probe
from efface.protocols.run_images import RunImages
from efface.protocols.scored_images import score_probes
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
    speed_table,
)
from pages import RESULTS, Page, machine, table, write

OURS, CEILING = "efface, with verdicts", "denoiser alone"
PARTS = ("command", "canvas", "speed", "agreement")
TARGETS = {"ceiling": 0.8, "default sampler": 3.0, "agreement": 0.98, "minutes": 3.0, "canvas": 10.0, "second": 0.6}


def questions() -> tuple[str, ...]:
    world = catalogue()
    return tuple(thing.name for thing in (*world.objects, *world.styles))


def ours(model: Model, eraser: efface.Eraser, judge: Judge, jobs: list[Job], sampling: Sampling) -> None:
    """Generate and judge images as a protocol does; with an eraser, no image comes from the cache."""
    probes = [Probe("retain", "cat", job) for job in jobs]
    with tempfile.TemporaryDirectory() as folder:
        run = RunImages(model, sampling, {"eraser": eraser}, Path(folder), use_cache=False)
        images = run.of(Plan(tuple(probes)), "eraser")
        score_probes(images, probes, judge, questions(), Path(folder), "eraser")


def plain(model: Model, judge: Judge, jobs: list[Job], sampling: Sampling) -> np.ndarray:
    """The plain loop: for each prompt a pipeline call, then the judge."""
    scores = [judge.scores(pipeline_loop(model, [job], sampling, 1)[0][None], questions()) for job in jobs]
    return np.concatenate(scores)


def speed(model: Model, judge: Judge, sampling: Sampling, n: int, rounds: int) -> dict[str, Any]:
    """Part (a), and the ratio of part (b)."""
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
    """The share of images whose verdicts all equal those on the image with 50 DDIM steps."""
    jobs = jobs_of_the_world(n, 1000)
    thresholds = np.array([judge.threshold(question) for question in questions()])
    ways = (sampling, replace(sampling, sampler="ddim", steps=REFERENCE))
    one, other = (judge.scores(images_of(model, jobs, how), questions()) >= thresholds for how in ways)
    return wilson(int((one == other).all(1).sum()), n).as_dict()


def evaluated(name: str, eraser: efface.Eraser, folder: Path, *options: str) -> float:
    """The seconds of `efface evaluate`."""
    path = folder / f"{name.replace(' ', '-')}.safetensors"
    eraser.save(path)
    run = [sys.executable, "-m", "efface.cli", "evaluate", str(path), *options, "-o", str(path.with_suffix(""))]
    environment = {**os.environ, "EFFACE_CACHE": str(folder / "cache")}
    duration = seconds(lambda: subprocess.run(run, env=environment, check=True, capture_output=True))
    print(f"{name}: {duration:.1f} s", flush=True)
    return duration


def command(quick: bool) -> dict[str, float]:
    """Part (c): the first eraser, a second one of the same concept, and one of another concept."""
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
    """Part (c): the protocol `unlearncanvas`."""
    size = ("-n", "1", "-s", "only=cat,dog,flat,3d") if quick else ()
    with tempfile.TemporaryDirectory() as folder:
        eraser = efface.erase("emoji", "cat", "dog")
        return evaluated("unlearncanvas", eraser, Path(folder), "-p", "unlearncanvas", *size)


def page(content: Any) -> Page:
    """The result page of the numbers in evaluation.json."""
    over, same, times = content["speed"]["efface_over"], content["agreement"], content["command"]
    slow = content["speed"]["reference"]
    minutes, canvas_minutes = times["first"] / 60, content["canvas"] / 60
    finding = (
        f"Images are generated and judged at {over[CEILING]:.0%} of the denoiser's own rate, "
        f"{over['pipeline then judge, equal settings']:.0f} times as fast as a loop of pipeline call and judge with "
        f"equal settings; `efface evaluate` takes {minutes:.1f} minutes, and its protocol `unlearncanvas` (2,840 "
        f"images) {canvas_minutes:.1f}."
    )
    targets = [
        ("rate relative to the denoiser alone", over[CEILING], "at least", TARGETS["ceiling"], "{:.0%}"),
        ("rate relative to the loop of 50 DDIM steps", over[slow], "at least", TARGETS["default sampler"], "{:.1f}"),
        ("images with the verdicts of 50 DDIM steps", same["value"], "at least", TARGETS["agreement"], "{:.1%}"),
        ("minutes of `efface evaluate`", minutes, "under", TARGETS["minutes"], "{:.1f}"),
        (
            "share of that time for a second eraser of the concept",
            times["second"] / times["first"],
            "at most",
            TARGETS["second"],
            "{:.0%}",
        ),
        (
            "share of that time for an eraser of another concept",
            times["other concept"] / times["first"],
            "",
            None,
            "{:.0%}",
        ),
        ("minutes of `--protocol unlearncanvas`", canvas_minutes, "under", TARGETS["canvas"], "{:.1f}"),
    ]
    rows = [
        [what, form.format(value), "" if target is None else f"{relation} {form.format(target)}"]
        for what, value, relation, target, form in targets
    ]
    body = f"""
{speed_table(content["speed"])}

{table(["", "measured", "target"], rows)}

The share of images with the same verdicts is over {same["n"]} images; 95% interval {same["low"]:.1%} to
{same["high"]:.1%}.
"""
    return Page("Evaluation: judged images per second", finding, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few images; writes nothing")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="measure these parts again; retain the others")
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
    stored = json.loads((RESULTS / "evaluation.json").read_text()) if arguments.only else {}
    content = stored | {name: part() for name, part in parts.items() if name in (arguments.only or PARTS)}
    content["sampling"] = f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance}"
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    if not quick:
        facts = (f"model {model.name}", content["sampling"], f"batches of {content['speed']['batch_size']}")
        write("evaluation", content, result, machine(), *facts)


if __name__ == "__main__":
    main()
