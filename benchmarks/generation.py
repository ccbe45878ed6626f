"""Images per second on the embedded model, against its denoiser alone and against plain loops with diffusers.

    python benchmarks/generation.py            writes results/generation.md and .json
    python benchmarks/generation.py --quick    a few images; writes nothing

(a) `efface generate` end to end (text, sampler, decoder, files on disk) against the denoiser alone, with as many calls
    at its best batch size (the upper bound).
(b) The same images by a loop of pipeline calls, with one prompt per call and with a batch of prompts per call.
(c) The default sampler against a loop of pipeline calls with 50 DDIM steps, and the share of images with the same
    verdicts, for the numbers of steps from which the default was chosen.

The machine may be busy, so the ways that are compared take turns, and the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

import efface
from efface.generation import Job, Sampling, generate_images, sample
from efface.generation.schedulers import make_scheduler
from efface.judges import Judge, open_judge
from efface.metrics.rates import wilson
from efface.models import Model
from efface.models.emoji import catalogue
from pages import Page, machine, table, write

BATCHES = (8, 16, 32, 64)
STEPS = (8, 10, 12, 14, 16, 20)
DEFAULT = "dpm++ 14"
REFERENCE = 50


def jobs_of_the_world(n: int, seed: int) -> list[Job]:
    """n jobs that cycle through the objects, styles and templates that the model was trained on."""
    world = catalogue()
    templates = [t for t in world.templates if "{object}" in t and "{style}" in t]
    cells = [
        (o.name, s.name) for s in world.styles for o in world.objects if (o.name, s.name) not in world.held_out_cells
    ]
    stride = 17 if len(cells) % 17 else 19  # walks through all cells in an order that mixes objects and styles
    jobs: list[Job] = []
    for k in range(n):
        thing, style = cells[k * stride % len(cells)]
        prompt = templates[k % len(templates)].replace("{object}", thing).replace("{style}", style)
        jobs.append(Job(prompt, seed + k))
    return jobs


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def denoiser_alone(model: Model, sampling: Sampling, batch: int) -> Callable[[], object]:
    """The denoiser calls of one batch with guidance, and no other work."""
    config = model.denoiser.config
    shape = (2 * batch, config.in_channels, config.sample_size, config.sample_size)
    noise, text = torch.randn(shape), torch.randn(2 * batch, model.max_tokens, model.width)
    times = torch.linspace(999, 0, sampling.steps).long()

    @torch.no_grad()
    def run() -> None:
        for t in times:
            model.denoiser(noise, t, encoder_hidden_states=text, return_dict=False)

    return run


def pipeline_loop(model: Model, jobs: Sequence[Job], sampling: Sampling, batch: int) -> list[np.ndarray]:
    """The plain loop: one pipeline call per prompt, or per batch of prompts."""
    pipeline: Any = model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(model.scheduler_config, sampling)
    side = model.denoiser.config.sample_size * pipeline.vae_scale_factor
    images: list[np.ndarray] = []
    for start in range(0, len(jobs), batch):
        part = jobs[start : start + batch]
        images += list(
            pipeline(
                [job.prompt for job in part],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                generator=[torch.Generator().manual_seed(job.seed) for job in part],
                height=side,
                width=side,
                output_type="np",
            ).images
        )
    return [(image * 255).round().astype(np.uint8) for image in images]


def images_of(model: Model, jobs: Sequence[Job], sampling: Sampling) -> np.ndarray:
    images = dict(sample(model, jobs, sampling))
    return np.stack([image for i in range(len(jobs)) if (image := images[i]) is not None])


def in_turns(rounds: int, works: dict[str, tuple[Callable[[], object], int]]) -> dict[str, list[float]]:
    """Images per second of each work, given as (function, number of images), in each round."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (work, n) in works.items():
            rates[name].append(n / seconds(work))
    return rates


def ratio(rates: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))


def speed(model: Model, sampling: Sampling, n: int, rounds: int) -> dict[str, Any]:
    """Parts (a) and (b), and the ratio of part (c)."""
    trial = {f"{b}": (denoiser_alone(model, sampling, b), b) for b in BATCHES if b <= n}
    best = max(trial, key=lambda name: statistics.median(in_turns(2, {name: trial[name]})[name]))
    sampling = replace(sampling, batch_size=int(best))
    jobs, few = jobs_of_the_world(n, 0), jobs_of_the_world(max(2, n // 8), 0)

    def end_to_end() -> None:
        with tempfile.TemporaryDirectory() as folder:
            generate_images(model, jobs, sampling, out=Path(folder) / "out")

    reference = replace(sampling, sampler="ddim", steps=REFERENCE)
    works: dict[str, tuple[Callable[[], object], int]] = {
        "denoiser alone": trial[best],
        "efface, end to end": (end_to_end, n),
        "pipeline, a prompt a call": (lambda: pipeline_loop(model, few, sampling, 1), len(few)),
        f"pipeline, {best} prompts a call": (lambda: pipeline_loop(model, jobs, sampling, int(best)), n),
        f"pipeline, a prompt a call, {REFERENCE} DDIM steps": (
            lambda: pipeline_loop(model, few, reference, 1),
            len(few),
        ),
    }
    rates = in_turns(rounds, works)
    ours = "efface, end to end"
    theirs = np.stack(pipeline_loop(model, few, sampling, 1)).astype(int)
    difference = int(np.abs(images_of(model, jobs, sampling)[: len(few)] - theirs).max())
    sizes = {b: images_of(model, few, replace(sampling, batch_size=b)).astype(int) for b in (1, 4, 16)}
    shuffled = images_of(model, few[::-1], replace(sampling, batch_size=4))[::-1]
    between = max(int(np.abs(sizes[1] - other).max()) for other in (sizes[4], sizes[16], shuffled))
    return {
        "batch_size": int(best),
        "images_a_second": {name: statistics.median(values) for name, values in rates.items()},
        "efface_over": {name: ratio(rates, ours, name) for name in works if name != ours},
        "largest_difference_to_the_pipeline": difference,
        "largest_difference_between_batch_sizes": between,
    }


def agreement(model: Model, judge: Judge, sampling: Sampling, n: int, steps: Sequence[int]) -> dict[str, Any]:
    """The share of images on which all answers of the judge equal those on the images with 50 DDIM steps."""
    world, jobs = catalogue(), jobs_of_the_world(n, 1000)
    questions = [o.name for o in world.objects] + [s.name for s in world.styles]
    thresholds = np.array([judge.threshold(question) for question in questions])

    def answers(how: Sampling) -> np.ndarray:
        return judge.scores(images_of(model, jobs, how), questions) >= thresholds

    reference = answers(replace(sampling, sampler="ddim", steps=REFERENCE))
    rows: dict[str, Any] = {}
    candidates = [replace(sampling, steps=k) for k in steps] + [replace(sampling, sampler="ddim", steps=2 * REFERENCE)]
    for how in candidates:
        same = int((answers(how) == reference).all(1).sum())
        rows[f"{how.sampler} {how.steps}"] = wilson(same, n).as_dict()
        print(f"{how.sampler} with {how.steps} steps agrees on {same} of {n}", flush=True)
    return rows


def speed_table(speed: dict[str, Any]) -> str:
    """The table of images per second, and how many times as fast efface is."""
    over = speed["efface_over"]
    rows = [
        [name, f"{rate:.2f}", f"{over[name]:.2f}x" if name in over else ""]
        for name, rate in speed["images_a_second"].items()
    ]
    return table(["way", "images per second", "efface is"], rows)


def page(content: Any) -> Page:
    """The result page of the numbers in generation.json."""
    over, rates = content["speed"]["efface_over"], content["agreement"]
    slow = f"pipeline, a prompt a call, {REFERENCE} DDIM steps"
    finding = (
        f"`efface generate` reaches {over['denoiser alone']:.0%} of the rate of its denoiser alone, and is "
        f"{over[slow]:.0f} times as fast as a plain loop of pipeline calls with {REFERENCE} DDIM steps, with the same "
        f"verdicts on {rates[DEFAULT]['value']:.1%} of images."
    )
    rows = [
        [
            f"{name}{' (default)' if name == DEFAULT else ''}",
            f"{rate['value']:.1%} of {rate['n']}",
            f"{rate['low']:.1%} to {rate['high']:.1%}",
        ]
        for name, rate in rates.items()
    ]
    body = f"""
{speed_table(content["speed"])}

The largest difference of a pixel (0 to 255) from the pipeline's images is
{content["speed"]["largest_difference_to_the_pipeline"]}; between efface's images at batch sizes 1, 4 and 16 and in
reverse order it is {content["speed"]["largest_difference_between_batch_sizes"]}.

{table(["sampler and steps", f"same verdicts as {REFERENCE} DDIM steps", "95% interval"], rows)}
"""
    return Page("Generation: images per second", finding, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few images; writes nothing")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--judge", default="emoji")
    arguments = parser.parse_args()
    model, judge = efface.open_model(arguments.model), open_judge(arguments.judge)
    sampling = Sampling.default(model)
    n, rounds, images = (8, 1, 8) if arguments.quick else (192, 3, 400)
    content = {
        "speed": speed(model, sampling, n, rounds),
        "agreement": agreement(model, judge, sampling, images, (8, sampling.steps) if arguments.quick else STEPS),
    }
    if arguments.quick:
        print(content)
        return
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    settings = f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance}"
    facts = (f"model {model.name}", settings, f"batches of {content['speed']['batch_size']}")
    write("generation", content, result, machine(), *facts)


if __name__ == "__main__":
    main()
