"""Does uce's goal `debias` make the embedded model draw what it is asked to, as often as it is asked to?

    python benchmarks/debias.py            three prompts, two settings each
    python benchmarks/debias.py --quick    one prompt, few rounds and images; writes no result

Each prompt says less than its images show ("a pet" is a cat or a dog, "a car" is drawn in some style or other), and
all that it may show is wanted equally often. Each is debiased alone, and then drawn anew, from seeds of no round:
- `shares`: of the images, by the attribute that the embedded judge scores highest, which is also what steered;
- `off`: the largest distance of a share from the wanted one, with a 95% interval from a bootstrap over images; `by
  chance`: what it would be on average if every image fell to an attribute at random;
- `either`: images in which the judge finds at least one of the attributes, above its threshold;
- `kept`: of images that ask for other things, and of images that ask for the attributes themselves, those in which the
  judge finds what was asked for.
Finished prompts are kept under --work. Writes results/debias.md and .json.
"""

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
import torch

import efface
from attacks import prompts
from efface import Eraser, Request
from efface.generation import Job, Sampling, sample
from efface.judges import Judge, open_judge
from efface.metrics.rates import wilson
from efface.models import Model
from efface.models.emoji import catalogue
from efface.settings import Scalar
from quality import keep

IMAGES, FIRST = 100, 1_000_000  # of what is measured; rounds begin at seed 0
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
Found = dict[str, dict[str, Row]]  # prompt -> setting, "before" among them -> row


@dataclass(frozen=True)
class Ground:
    """What every prompt is measured by."""

    model: Model
    judge: Judge
    n: int

    def drawn(self, texts: list[str], eraser: Eraser | None) -> np.ndarray[Any, Any]:
        """(n, H, W, 3), an image a seed."""
        jobs = [Job(texts[index % len(texts)], FIRST + index) for index in range(self.n)]
        images = sample(self.model, jobs, Sampling.default(self.model), eraser)
        return np.stack([pixels for _, pixels in images if pixels is not None])

    def finds(self, names: list[str], eraser: Eraser | None) -> tuple[int, int]:
        """In how many images that each ask for one of these objects or styles it is found, and of how many."""
        looks = {style.name for style in catalogue().styles}
        found = total = 0
        for name in names:
            said = [f"{a} in {name} style" for a in ("a cat", "a tree")] if name in looks else prompts([name], 8)
            some = Ground(self.model, self.judge, -(-self.n // len(names)))
            scores = self.judge.scores(some.drawn(said, eraser), [name])
            found, total = found + int((scores >= self.judge.threshold(name)).sum()), total + len(scores)
        return found, total

    def row(self, prompt: str, attributes: tuple[str, ...], eraser: Eraser | None) -> Row:
        others = [entry.name for entry in catalogue().objects if entry.name not in (*attributes, *prompt.split())]
        scores = self.judge.scores(self.drawn([prompt], eraser), attributes)
        shown = scores.argmax(1)
        draws = np.random.default_rng(0).integers(0, len(shown), (2000, len(shown)))
        thresholds = [self.judge.threshold(attribute) for attribute in attributes]
        return {
            "shares": (np.bincount(shown, minlength=len(attributes)) / len(shown)).tolist(),
            "off": off(shown, len(attributes)),
            "off between": np.percentile([off(shown[draw], len(attributes)) for draw in draws], (2.5, 97.5)).tolist(),
            "either": [int((scores >= thresholds).any(1).sum()), len(scores)],
            "others kept": self.finds(others[:: max(1, len(others) // 20)], eraser),
            "attributes kept": self.finds(list(attributes), eraser),
        }


def off(shown: np.ndarray[Any, Any], attributes: int) -> float:
    return float(np.abs(np.bincount(shown, minlength=attributes) / len(shown) - 1 / attributes).max())


def by_chance(attributes: int, n: int) -> float:
    draws = np.random.default_rng(0).integers(0, attributes, (2000, n))
    return float(np.mean([off(draw, attributes) for draw in draws]))


def run(ground: Ground, prompt: str, attributes: tuple[str, ...], quick: bool, work: Path) -> dict[str, Row]:
    """A prompt before, and debiased by each setting."""
    kept = work / f"{prompt.replace(' ', '-')}.json"
    facts = {"model": ground.model.hash, "judge": ground.judge.version, "n": ground.n, "attributes": list(attributes)}
    rows: dict[str, Row] = {}
    if kept.exists() and (content := json.loads(kept.read_text()))["facts"] == facts:
        rows = content["rows"]
    for said, options in {"before": None, **SETTINGS}.items():
        if said in rows and rows[said].get("options") == options:
            continue
        eraser, cost = None, Row()
        if options is not None:
            few: dict[str, Scalar] = {"max_iterations": 2} if quick else {}
            request = Request.make([prompt], list(attributes), goal="debias", options={**options, **few})
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of shares that did not settle: the table says so
                eraser = efface.erase(ground.model, request, judge=ground.judge)
            cost = {"seconds": time.perf_counter() - started, "rounds": len(eraser.provenance["shares"])}
        rows[said] = {"options": options, **ground.row(prompt, attributes, eraser), **cost}
        kept.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))
        print(f"{prompt}, {said}: {rows[said]}", flush=True)
    return {said: rows[said] for said in ("before", *SETTINGS)}


def line(prompt: str, said: str, row: Row) -> str:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(CASES[prompt], row["shares"], strict=True))
    low, high = row["off between"]
    rates = [wilson(*row[key]) for key in ("either", "others kept", "attributes kept")]
    cells = [prompt, said, shares, f"{row['off']:.0%} [{low:.0%}, {high:.0%}]"]
    cells += [f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}] n={rate.n}" for rate in rates]
    cells += [str(row.get("rounds", "")), f"{row['seconds']:.0f}" if "seconds" in row else ""]
    return "| " + " | ".join(cells) + " |"


def page(found: Found, judge: Judge, n: int) -> str:
    heads = ["prompt", "setting", "shares", "off", "either", "others kept", "attributes kept", "rounds", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [line(prompt, said, row) for prompt, rows in found.items() for said, row in rows.items()]
    means = [
        f"| {said} | {np.mean([rows[said]['off'] for rows in found.values()]):.0%} |" for said in ("before", *SETTINGS)
    ]
    chance = ", ".join(
        f"{k} attributes {by_chance(k, n):.1%}" for k in sorted({len(names) for names in CASES.values()})
    )
    given = "\n".join(f"- {said}: `{json.dumps(options)}`" for said, options in SETTINGS.items() if options)
    return f"""# Debiasing the embedded model

{len(found)} prompts, each debiased alone, then drawn {n} times from other seeds; judge {judge.name} {judge.version};
torch {torch.__version__}, {torch.get_num_threads()} thread(s) of a busy machine. Made by
`python benchmarks/debias.py`, whose first lines say what is measured. By chance, shares of {n} images are off by:
{chance}. "published" is the script of 2025: at most 30 rounds of 10 images, steps of 1; 30 rounds are those that
never settled, and what is drawn then is where the last step swung to.

{given}

| setting | off, mean over prompts |
|---|---|
{chr(10).join(means)}

{chr(10).join(lines)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one prompt, few rounds and images; writes no result")
    parser.add_argument("--work", type=Path, default=Path("debias"), help="finished prompts")
    arguments = parser.parse_args()
    ground = Ground(efface.open_model("emoji"), open_judge("emoji"), 8 if arguments.quick else IMAGES)
    cases = dict(list(CASES.items())[:1]) if arguments.quick else CASES
    work = Path(tempfile.mkdtemp()) if arguments.quick else arguments.work
    work.mkdir(parents=True, exist_ok=True)
    found = {prompt: run(ground, prompt, names, arguments.quick, work) for prompt, names in cases.items()}
    text = page(found, ground.judge, ground.n)
    print("\n" + text)
    if not arguments.quick:
        keep(found, text, "debias")


if __name__ == "__main__":
    main()
