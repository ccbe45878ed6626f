"""Images a second on the embedded model: against its denoiser alone, and against plain diffusers loops.

    python benchmarks/generation.py            writes results/generation.md and .json
    python benchmarks/generation.py --quick    a few images; writes nothing

(a) `efface generate` end to end (text, sampler, decoder, pictures on disk) against the denoiser alone, called as often
    at its best batch size: the ceiling.
(b) the same images by a loop of pipeline calls, one prompt a call and a batch of prompts a call.
(c) the default sampler against a loop of pipeline calls with 50 DDIM steps, and how often the judge says the same of
    both images; the steps from which the default was chosen.

The machine may be busy: what is compared is measured in turns, and the ratio is the median over the rounds.
"""

import argparse
import json
import os
import platform
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
from efface.generation import Job, Sampling, generate, sample
from efface.generation.schedulers import make_scheduler
from efface.judges import Judge, open_judge
from efface.metrics.rates import wilson
from efface.models import Model
from efface.models.emoji import catalogue

RESULTS = Path(__file__).parent / "results"
BATCHES = (8, 16, 32, 64)
STEPS = (8, 10, 12, 14, 16, 20)
REFERENCE = 50


def jobs_of_the_world(n: int, seed: int) -> list[Job]:
    """n jobs that take turns over objects, styles and templates the model was trained on."""
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
    """One batch's worth of guided denoiser calls, with nothing around them."""
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
    """What people write: a pipeline call a prompt, or a batch of prompts."""
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
    made = dict(sample(model, jobs, sampling))
    return np.stack([image for i in range(len(jobs)) if (image := made[i]) is not None])


def in_turns(rounds: int, works: dict[str, tuple[Callable[[], object], int]]) -> dict[str, list[float]]:
    """Images a second of each work, (function, images it makes), in each round."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (work, n) in works.items():
            rates[name].append(n / seconds(work))
    return rates


def ratio(rates: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))


def speed(model: Model, sampling: Sampling, n: int, rounds: int) -> dict[str, Any]:
    """Parts (a) and (b), and the ratio of (c)."""
    trial = {f"{b}": (denoiser_alone(model, sampling, b), b) for b in BATCHES if b <= n}
    best = max(trial, key=lambda name: statistics.median(in_turns(2, {name: trial[name]})[name]))
    sampling = replace(sampling, batch_size=int(best))
    jobs, few = jobs_of_the_world(n, 0), jobs_of_the_world(max(2, n // 8), 0)

    def end_to_end() -> None:
        with tempfile.TemporaryDirectory() as folder:
            generate(model, jobs, sampling, out=Path(folder) / "out")

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
    apart = int(np.abs(images_of(model, jobs, sampling)[: len(few)] - theirs).max())
    sizes = {b: images_of(model, few, replace(sampling, batch_size=b)).astype(int) for b in (1, 4, 16)}
    shuffled = images_of(model, few[::-1], replace(sampling, batch_size=4))[::-1]
    between = max(int(np.abs(sizes[1] - other).max()) for other in (sizes[4], sizes[16], shuffled))
    return {
        "batch_size": int(best),
        "images_a_second": {name: statistics.median(values) for name, values in rates.items()},
        "efface_over": {name: ratio(rates, ours, name) for name in works if name != ours},
        "largest_difference_to_the_pipeline": apart,
        "largest_difference_between_batch_sizes": between,
    }


def agreement(model: Model, judge: Judge, sampling: Sampling, n: int, steps: Sequence[int]) -> dict[str, Any]:
    """How often the judge gives the same answers to all of its questions as on the images of 50 DDIM steps."""
    world, jobs = catalogue(), jobs_of_the_world(n, 1000)
    questions = [o.name for o in world.objects] + [s.name for s in world.styles]
    bars = np.array([judge.threshold(question) for question in questions])

    def answers(how: Sampling) -> np.ndarray:
        return judge.scores(images_of(model, jobs, how), questions) >= bars

    reference = answers(replace(sampling, sampler="ddim", steps=REFERENCE))
    rows: dict[str, Any] = {}
    candidates = [replace(sampling, steps=k) for k in steps] + [replace(sampling, sampler="ddim", steps=2 * REFERENCE)]
    for how in candidates:
        same = int((answers(how) == reference).all(1).sum())
        rows[f"{how.sampler} {how.steps}"] = wilson(same, n).as_dict()
        print(f"{how.sampler} with {how.steps} steps agrees on {same} of {n}", flush=True)
    return rows


def page(model: Model, sampling: Sampling, found: dict[str, Any]) -> str:
    rates, over = found["speed"]["images_a_second"], found["speed"]["efface_over"]
    lines = ["| way | images a second | efface is |", "|---|---|---|"]
    lines += [
        f"| {name} | {rate:.2f} | {f'{over[name]:.2f}x' if name in over else ''} |" for name, rate in rates.items()
    ]
    lines += ["", f"| sampler and steps | same verdicts as {REFERENCE} DDIM steps | 95% interval |", "|---|---|---|"]
    chosen = f"{sampling.sampler} {sampling.steps}"
    for name, rate in found["agreement"].items():
        mark = " (default)" if name == chosen else ""
        lines.append(f"| {name}{mark} | {rate['value']:.1%} of {rate['n']} | {rate['low']:.1%} to {rate['high']:.1%} |")
    setting = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, model {model.name}"
    return f"""# Images a second

{setting}; {sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance}, batches of
{found["speed"]["batch_size"]}. Made by `python benchmarks/generation.py`, whose first lines say what is compared.
The pipeline's images differ from efface's by at most {found["speed"]["largest_difference_to_the_pipeline"]} of 255;
efface's at batch sizes 1, 4 and 16 and in reverse order by {found["speed"]["largest_difference_between_batch_sizes"]}.

{chr(10).join(lines)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few images; writes nothing")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--judge", default="emoji")
    arguments = parser.parse_args()
    model, judge = efface.open_model(arguments.model), open_judge(arguments.judge)
    sampling = Sampling.default(model)
    n, rounds, images = (8, 1, 8) if arguments.quick else (192, 3, 400)
    found = {
        "speed": speed(model, sampling, n, rounds),
        "agreement": agreement(model, judge, sampling, images, (8, sampling.steps) if arguments.quick else STEPS),
    }
    text = page(model, sampling, found)
    print("\n" + text)
    if not arguments.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "generation.md").write_text(text, encoding="utf-8")
        (RESULTS / "generation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
