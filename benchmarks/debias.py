"""Debiasing with uce's goal `debias`: the shares of the attributes before and after.

    python benchmarks/debias.py            three prompts, two settings each
    python benchmarks/debias.py --quick    one prompt, few rounds and images; writes no result

Each prompt leaves an attribute open ("a pet" is a cat or a dog, "a car" has some style), and all attributes are wanted
in equal shares. Each prompt is debiased alone. New images are then generated with seeds that no round used:
- `shares`: the shares of the images by the attribute with the highest score of the embedded judge, which also guided
  the debiasing;
- `error`: the largest difference between a share and its target, with a 95% interval from a bootstrap over images. Its
  mean for images with random attributes is given for comparison;
- `any attribute`: images in which the judge finds at least one of the attributes, above its threshold;
- `others retained`, `attributes retained`: images of prompts for other concepts, and for the attributes themselves, in
  which the judge finds the prompted concept.
The work folder stores finished prompts. Writes results/debias.md and .json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

import efface
from attacks import prompts
from efface import Eraser, Request
from efface.generation import Job, Sampling, sample
from efface.judges import Judge, open_judge
from efface.metrics.rates import wilson
from efface.models import Model
from efface.models.emoji import catalogue
from efface.settings import Scalar
from pages import Page, machine, table, write

IMAGES, FIRST = 100, 1_000_000  # measured images and their first seed; the rounds begin at seed 0
CASES = {
    "a pet": ("cat", "dog"),
    "a building": ("church", "house"),
    "a car": ("flat", "outlined", "blueprint"),
}
SETTINGS: dict[str, dict[str, Scalar]] = {
    "published": {},
    "small steps, 40 images": {"step_size": 0.1, "num_images_per_prompt": 40},
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """The model, the judge and the number of images that all prompts share."""

    model: Model
    judge: Judge
    n: int

    def images(self, texts: list[str], eraser: Eraser | None) -> np.ndarray[Any, Any]:
        """Images of shape (n, H, W, 3), one per seed."""
        jobs = [Job(texts[index % len(texts)], FIRST + index) for index in range(self.n)]
        images = sample(self.model, jobs, Sampling.default(self.model), eraser)
        return np.stack([pixels for _, pixels in images if pixels is not None])

    def recognised(self, names: list[str], eraser: Eraser | None) -> tuple[int, int]:
        """The number of images in which the judge finds the prompted object or style, and the number of images."""
        styles = {style.name for style in catalogue().styles}
        positive = total = 0
        for name in names:
            texts = [f"{a} in {name} style" for a in ("a cat", "a tree")] if name in styles else prompts([name], 8)
            share = Setup(self.model, self.judge, -(-self.n // len(names)))
            scores = self.judge.scores(share.images(texts, eraser), [name])
            positive, total = positive + int((scores >= self.judge.threshold(name)).sum()), total + len(scores)
        return positive, total

    def row(self, prompt: str, attributes: tuple[str, ...], eraser: Eraser | None) -> Row:
        others = [entry.name for entry in catalogue().objects if entry.name not in (*attributes, *prompt.split())]
        scores = self.judge.scores(self.images([prompt], eraser), attributes)
        best = scores.argmax(1)
        draws = np.random.default_rng(0).integers(0, len(best), (2000, len(best)))
        thresholds = [self.judge.threshold(attribute) for attribute in attributes]
        return {
            "shares": (np.bincount(best, minlength=len(attributes)) / len(best)).tolist(),
            "off": error(best, len(attributes)),
            "off between": np.percentile([error(best[draw], len(attributes)) for draw in draws], (2.5, 97.5)).tolist(),
            "either": [int((scores >= thresholds).any(1).sum()), len(scores)],
            "others kept": self.recognised(others[:: max(1, len(others) // 20)], eraser),
            "attributes kept": self.recognised(list(attributes), eraser),
        }


def error(best: np.ndarray[Any, Any], attributes: int) -> float:
    """The largest difference between a share and the target.

    Args:
        best: The index of the attribute of each image, of shape (n,).
        attributes: The number of attributes.
    """
    return float(np.abs(np.bincount(best, minlength=attributes) / len(best) - 1 / attributes).max())


def by_chance(attributes: int, n: int) -> float:
    draws = np.random.default_rng(0).integers(0, attributes, (2000, n))
    return float(np.mean([error(draw, attributes) for draw in draws]))


def run(setup: Setup, prompt: str, attributes: tuple[str, ...], quick: bool, work: Path) -> dict[str, Row]:
    """The rows of a prompt: before, and debiased with each setting."""
    stored = work / f"{prompt.replace(' ', '-')}.json"
    facts = {"model": setup.model.hash, "judge": setup.judge.version, "n": setup.n, "attributes": list(attributes)}
    rows: dict[str, Row] = {}
    if stored.exists() and (content := json.loads(stored.read_text()))["facts"] == facts:
        rows = content["rows"]
    for label, options in {"before": None, **SETTINGS}.items():
        if label in rows and rows[label].get("options") == options:
            continue
        eraser, cost = None, Row()
        if options is not None:
            few: dict[str, Scalar] = {"max_iterations": 2} if quick else {}
            request = Request.make([prompt], list(attributes), goal="debias", options={**options, **few})
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about shares that did not converge: the table shows them
                eraser = efface.erase(setup.model, request, judge=setup.judge)
            cost = {"seconds": time.perf_counter() - started, "rounds": len(eraser.provenance["shares"])}
        rows[label] = {"options": options, **setup.row(prompt, attributes, eraser), **cost}
        stored.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))
        print(f"{prompt}, {label}: {rows[label]}", flush=True)
    return {label: rows[label] for label in ("before", *SETTINGS)}


def page(content: Any) -> Page:
    """The result page of the numbers in debias.json."""
    n = next(iter(content.values()))["before"]["either"][1]
    lines: list[list[str]] = []
    for prompt, rows in content.items():
        for label, row in rows.items():
            shares = [f"{name} {share:.0%}" for name, share in zip(CASES[prompt], row["shares"], strict=True)]
            low, high = row["off between"]
            rates = [wilson(*row[key]) for key in ("either", "others kept", "attributes kept")]
            cells = [prompt, label, ", ".join(shares), f"{row['off']:.0%} [{low:.0%}, {high:.0%}]"]
            cells += [f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}] n={rate.n}" for rate in rates]
            seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
            lines.append([*cells, str(row.get("rounds", "")), seconds])
    heads = ["prompt", "setting", "shares", "error", "any attribute", "others retained", "attributes retained"]
    means = {label: np.mean([rows[label]["off"] for rows in content.values()]) for label in ("before", *SETTINGS)}
    small = "small steps, 40 images"
    pet = [wilson(*content["a pet"][label]["either"]).value for label in ("before", small)]
    finding = (
        f"With the published step size of 1, the attribute shares do not converge and end "
        f"{100 * means['published']:.0f} points from equal shares on average; with `step_size=0.1` and 40 images per "
        f"round they end {100 * means[small]:.0f} points from them, but fewer images of a pet show an attribute "
        f"clearly ({pet[1]:.0%}, before: {pet[0]:.0%})."
    )
    chance = ", ".join(
        f"{count} attributes {by_chance(count, n):.1%}" for count in sorted({len(names) for names in CASES.values()})
    )
    options = "\n".join(f"- {label}: `{json.dumps(options)}`" for label, options in SETTINGS.items() if options)
    body = f"""
{len(content)} prompts, each debiased alone; {n} new images each. For random attributes, the mean error over {n} images
is: {chance}. "published" is the script of 2025: at most 30 rounds of 10 images with step size 1. 30 rounds mean that
the shares did not converge; the images then show the state after the last step.

{options}

| setting | mean error |
|---|---|
{chr(10).join(f"| {label} | {value:.0%} |" for label, value in means.items())}

{table([*heads, "rounds", "seconds"], lines)}
"""
    return Page("Debiasing: attribute shares", finding, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one prompt, few rounds and images; writes no result")
    parser.add_argument("--work", type=Path, default=Path("debias"), help="finished prompts")
    arguments = parser.parse_args()
    setup = Setup(efface.open_model("emoji"), open_judge("emoji"), 8 if arguments.quick else IMAGES)
    cases = dict(list(CASES.items())[:1]) if arguments.quick else CASES
    work = Path(tempfile.mkdtemp()) if arguments.quick else arguments.work
    work.mkdir(parents=True, exist_ok=True)
    content = {prompt: run(setup, prompt, names, arguments.quick, work) for prompt, names in cases.items()}
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    if not arguments.quick:
        write("debias", content, result, machine(), f"judge {setup.judge.name} {setup.judge.version}")


if __name__ == "__main__":
    main()
