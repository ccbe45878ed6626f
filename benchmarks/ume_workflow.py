"""The workflow of the U&ME challenge's entry on the embedded model: one eraser per concept, images, answers, rates.

    python benchmarks/ume_workflow.py [--work FOLDER] [--workers N]    writes results/ume_workflow.md and .json
    python benchmarks/ume_workflow.py --quick                          two concepts, in a temporary folder

    efface erase --each examples/challenge.csv -o WORK/erasers
    efface generate --prompts examples/challenge.csv --each-eraser WORK/erasers -n 10 -o WORK/images
    efface judge WORK/images --prompts examples/challenge.csv

with all 20 concepts, and all their direct and indirect prompts with every eraser (the adversarial prompt of a concept
with its own eraser): 40,200 images. Each command resumes if the script runs again. The output of the commands is in
results/ume_workflow.log (with WORK for the folder), and results/ume_workflow.png has an image of each eraser and
concept.

The rates are computed twice: by efface (`models` of `efface judge --json`), and from evaluation_results.csv by the ten
lines of `rates_of_file`. Both must be equal: forget is the share of "no" to the edited concept's direct prompts,
indirect the same for its indirect prompts, retain the share of "yes" to the direct and indirect prompts of all other
concepts, and err the harmonic mean of all rates of a model.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import harmonic_mean, mean
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from efface.files import slug
from pages import RESULTS, Page, machine, table, write

DATASET = Path(__file__).parents[1] / "examples" / "challenge.csv"
IMAGES = 10
SIDE, LABEL = 44, 92  # pixels of an image and of a name in the picture
METRICS = ("forget", "indirect", "adversarial", "retain", "err")


def run(log: Path, *arguments: object) -> dict[str, Any]:
    """Run a command of efface, add its output to the log, and return its JSON."""
    words = [str(word) for word in arguments]
    started = time.perf_counter()
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ efface {' '.join(words)}\n")
        file.flush()
        command = [sys.executable, "-m", "efface", *words, "--json"]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, text=True, check=False)
        file.write(f"exit {ended.returncode} after {time.perf_counter() - started:.0f} s\n\n")
    if ended.returncode:
        raise SystemExit(f"The command failed; see {log}.")
    return json.loads(ended.stdout)


def rates_of_file(path: Path) -> dict[str, dict[str, float]]:
    """The rates of each model, computed from evaluation_results.csv alone."""
    answers: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["model_response"] not in ("yes", "no"):
                continue
            model, concept, kind = row["model_for_the_concept"], row["checking_for_the_concept"], row["prompt_type"]
            own = {"direct": "forget"}.get(kind, kind) if model == concept else "retain"
            answers[model][own].append((row["model_response"] == "yes") is (own == "retain"))
    rates = {model: {name: mean(values) for name, values in of_model.items()} for model, of_model in answers.items()}
    return {model: {**of_model, "err": harmonic_mean(list(of_model.values()))} for model, of_model in rates.items()}


def measure(dataset: Path, work: Path, log: Path, n: int, more: tuple[object, ...]) -> dict[str, Any]:
    """Run the three commands, and compare the two ways to compute the rates."""
    work.mkdir(parents=True, exist_ok=True)
    erasers, images = work / "erasers", work / "images"
    run(log, "erase", "--each", dataset, "-o", erasers, *more)
    run(log, "generate", "--prompts", dataset, "--each-eraser", erasers, "-n", n, "-o", images, *more)
    (images / "evaluation_results.csv").unlink(missing_ok=True)
    answer = run(log, "judge", images, "--prompts", dataset, *more)
    by_hand = rates_of_file(images / "evaluation_results.csv")
    models: dict[str, Any] = {name: model["metrics"] for name, model in answer["models"].items()}
    for name, metrics in models.items():
        for metric, rate in metrics.items():
            assert abs(rate["value"] - by_hand[name][metric]) < 1e-9, (name, metric)
    return {"models": models, "errors": answer["errors"], "n": n, "judge": answer["judge"]}


def page(content: Any) -> Page:
    """The result page of the numbers in ume_workflow.json."""
    models = content["models"]
    means = {
        metric: mean(model[metric]["value"] for model in models.values()) for metric in ("forget", "retain", "err")
    }
    indirect = mean(model["indirect"]["value"] for model in models.values())
    finding = (
        f"{len(models)} erasers of one concept each forget {means['forget']:.1%}, {indirect:.1%} in indirect prompts, "
        f"retain {means['retain']:.1%} of the other concepts, and have a mean ERR of {means['err']:.1%}."
    )
    rows = [[name, *(_cell(model.get(metric)) for metric in METRICS)] for name, model in models.items()]
    images = sum(model[metric]["n"] for model in models.values() for metric in METRICS[:-1] if metric in model)
    body = f"""
{images} images were judged, {content["n"]} of each prompt; {content["errors"]} have no answer. The rates of efface are
equal to those computed from evaluation_results.csv by `rates_of_file`. In percent, with 95% intervals and the number of
images.

{table(["edited concept", *METRICS], rows)}

An image of each eraser (rows) and each concept (columns), by the first prompt that names the concept, with the same
seed: only the images on the diagonal should change.

![An image of each eraser and each concept](ume_workflow.png)
"""
    return Page("The workflow of the U&ME challenge", finding, body)


def picture(images: Path, names: list[str]) -> Image.Image:
    """The first image of every eraser (a row) and concept (a column), whose prompt names the concept."""
    size = LABEL + len(names) * SIDE
    canvas, font = Image.new("RGB", (size, size), "white"), ImageFont.load_default(12)
    for number, name in enumerate(names):
        label = Image.new("RGB", (LABEL, SIDE), "white")
        ImageDraw.Draw(label).text((LABEL - 6, SIDE // 2), name, fill="black", font=font, anchor="rm")
        canvas.paste(label, (0, LABEL + number * SIDE))
        canvas.paste(label.rotate(270, expand=True), (LABEL + number * SIDE, 0))
        for column, prompted in enumerate(names):
            folder = images / slug(name) / slug(prompted)
            with (folder / "metadata.jsonl").open(encoding="utf-8") as rows:
                first = json.loads(next(rows))["file_name"]
            with Image.open(folder / first) as image:
                cell = image.convert("RGB").resize((SIDE - 2, SIDE - 2), Image.Resampling.LANCZOS)
            canvas.paste(cell, (LABEL + column * SIDE, LABEL + number * SIDE))
    return canvas.quantize(256)


def _cell(rate: Any) -> str:
    if rate is None:
        return "–"
    low, value, high = (100 * rate[key] for key in ("low", "value", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}] of {rate['n']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "efface-ume")
    parser.add_argument("--workers", type=int, help="processes of each command")
    parser.add_argument("--quick", action="store_true", help="two concepts, and no result")
    arguments = parser.parse_args()
    more = () if arguments.workers is None else ("--workers", arguments.workers)
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            lines = DATASET.read_text(encoding="utf-8").splitlines()[:3]
            (Path(folder) / "two.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            content = measure(Path(folder) / "two.csv", Path(folder), Path(folder) / "log", 1, more)
            print((Path(folder) / "log").read_text(), page(content).finding, sep="\n")
        return
    content = measure(DATASET, arguments.work, RESULTS / "ume_workflow.log", IMAGES, more)
    write("ume_workflow", content, page(content), machine(), f"judge {content['judge']['name']}")
    picture(arguments.work / "images", list(content["models"])).save(RESULTS / "ume_workflow.png", optimize=True)


if __name__ == "__main__":
    main()
