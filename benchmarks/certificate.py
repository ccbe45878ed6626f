"""The certificate of an eraser against collateral change, forget rate and the success of an attack.

    python benchmarks/certificate.py            five objects; writes results/certificate.md, .json and .svg
    python benchmarks/certificate.py --quick    one object and few images, in a temporary folder; writes no result

Each object is erased alone, towards the guide of the catalogue: by `certified` with different numbers of exactly
preserved directions (`rank`), by `uce` with two ridges, and by `rece`. The numbers of an eraser:
- `certificate / ceiling`: the certificate against any embedding (`free`), as a share of its ceiling;
- `collateral`: the change of prompts about other objects that are not preserved: |Me - e| / |e| over all tokens, in the
  S norm;
- `forget rate`: the share of images of prompts with the object's name in which the embedded judge does not find it;
- `restored`: the share of images that show the object when every token of the prompt is replaced by the embedding that
  restores its keys and values best.
The work folder stores the verdicts, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

import efface
from attacks import drawn, edit_of, prompts, restored, unseen
from efface import TextEdit
from efface.generation import Sampling
from efface.judges import Judge, open_judge
from efface.models import Model
from efface.models.emoji import catalogue
from efface.models.text_gram import TextGram, text_gram
from pages import RESULTS, Page, machine, table, write
from quality import Setting, request_of

OBJECTS = ("cat", "fish", "church", "sailboat", "guitar")
IMAGES = 16
OTHERS = 120  # prompts about other objects
RANKS = (0, 8, 16, 24)

SETTINGS = {
    "uce, lamb 10": Setting(options={"variant": "window", "lamb": 10.0}, preserve=True),
    "uce, lamb 0.1": Setting(options={"variant": "window", "lamb": 0.1}, preserve=True),
    "rece": Setting("rece", preserve=True),
    **{
        f"certified, rank {rank}": Setting("certified", {"preserve_rank": rank}, preserve=True)
        for rank in (0, 8, 16, 24)
    },
    "certified": Setting("certified", preserve=True),
    "certified, window": Setting("certified", {"tokens": "window"}, preserve=True),
    "certified, window, rank 0": Setting("certified", {"tokens": "window", "preserve_rank": 0}, preserve=True),
}

Row = dict[str, Any]


def shows(judge: Judge, pictures: np.ndarray[Any, Any], name: str) -> int:
    """How many images show the concept."""
    return int((judge.scores(pictures, [name]) >= judge.threshold(name)).sum())


def collateral(model: Model, edit: TextEdit, gram: TextGram, spared: list[str]) -> float:
    """Mean relative change of whole prompts in the S norm."""
    tokens = model.embed(prompts(spared, OTHERS)).tokens.double()  # (n, T, d)
    moved, size = (gram.norms(rows.flatten(0, 1)).reshape(rows.shape[:2]) for rows in (edit(tokens) - tokens, tokens))
    return float((moved.norm(dim=1) / size.norm(dim=1)).mean())


def run(model: Model, judge: Judge, name: str, n: int, work: Path) -> dict[str, Row]:
    """One object under every setting; settings in the work folder are not measured again."""
    gram, sampling = text_gram(model), Sampling.default(model)
    thing = next(thing for thing in catalogue().objects if thing.name == name)
    others = [other.name for other in catalogue().objects if other.name not in (thing.name, thing.guide)]
    tokens = model.embed(prompts([name], n, unseen(name))).tokens
    rows: dict[str, Row] = {}
    for label, setting in SETTINGS.items():
        request = request_of(name, "object", setting)
        facts: dict[str, Any] = {"model": model.hash, "judge": judge.version, "n": n, "sampling": str(sampling)}
        facts["request"] = request.model_dump(mode="json")
        stored = work / f"{name}-{label.replace(', ', '-').replace(' ', '-')}.json"
        if stored.exists() and (content := json.loads(stored.read_text()))["facts"] == facts:
            rows[label] = content["row"]
            continue
        eraser = efface.erase(model, request, certify=True)
        edit, certificate = edit_of(eraser, model.width), (eraser.certificate or {})[name]
        shown = [
            int(
                (
                    judge.scores(drawn(model, eraser, texts, Sampling.default(model)), [name]) >= judge.threshold(name)
                ).sum()
            )
            for texts in (tokens, restored(edit, gram, tokens))
        ]
        row: Row = {
            "certificate": (certificate["free"] or 0.0) / (certificate["ceiling"] or 1.0),
            "collateral": collateral(model, edit, gram, others),
            "forgotten": 1 - shown[0] / n,
            "restored": shown[1] / n,
            "n": n,
        }
        stored.write_text(json.dumps({"facts": facts, "row": row}, indent=1))
        rows[label] = row
        print(f"  {name}, {label}: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()), flush=True)
    return rows


def correlation(content: dict[str, dict[str, Row]], key: str) -> str:
    """Spearman's rank correlation of the certificate with another number, over all erasers."""
    from scipy.stats import spearmanr

    rows = [row for settings in content.values() for row in settings.values()]
    if len({row[key] for row in rows}) == 1:
        return "undefined, as all erasers have the same value"
    ranks: Any = spearmanr([row["certificate"] for row in rows], [row[key] for row in rows])
    return f"{float(ranks.statistic):+.2f}"


def plot(content: dict[str, dict[str, Row]], path: Path) -> None:
    """The certificate against the three other numbers: one point per eraser, coloured by method."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "efface", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    colours = {"uce": "#c2410c", "rece": "#7c3aed", "certified": "#0f766e"}
    titles = {
        "collateral": "Change of prompts that are not preserved",
        "forgotten": "Forget rate",
        "restored": "Images restored by the best embedding",
    }
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        for method, colour in colours.items():
            rows = [r for of in content.values() for label, r in of.items() if label.split(",")[0] == method]
            x, y = [row["certificate"] for row in rows], [row[key] for row in rows]
            panel.scatter(x, y, s=22, alpha=0.75, color=colour, label=method, edgecolors="none")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("certificate (free) / ceiling")
        if key == "collateral":
            panel.set_yscale("log")
        else:
            panel.set_ylim(-0.03, 1.03)
        panel.grid(alpha=0.25)
    panels[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def page(content: Any) -> Page:
    """The result page of the numbers in certificate.json."""
    erasers = sum(map(len, content.values()))
    finding = (
        f"Over {erasers} erasers, the higher the certificate, the fewer images the best embedding restores (rank "
        f"correlation {correlation(content, 'restored')})."
    )
    rows: list[list[str]] = []
    for label in SETTINGS:
        of_label = [settings[label] for settings in content.values()]
        cells = [f"{np.mean([row[key] for row in of_label]):.2f}" for key in ("certificate", "collateral")]
        cells += [f"{np.mean([row[key] for row in of_label]):.0%}" for key in ("forgotten", "restored")]
        rows.append([label, *cells])
    heads = ["setting", "certificate / ceiling", "collateral", "forget rate", "restored by embeddings"]
    body = f"""
{len(content)} objects of the embedded model, each erased alone with the others preserved, {len(SETTINGS)} settings.
Means over objects:

{table(heads, rows)}

![Certificate against collateral change, forget rate and restored images](certificate.svg)

Spearman's rank correlation of the certificate over all {erasers} erasers:

- with collateral change: {correlation(content, "collateral")};
- with the forget rate: {correlation(content, "forgotten")};
- with the share of images that the best embedding restores: {correlation(content, "restored")}.

The certificate does not predict the success of the gradient attack on the image, which robust.py measures.
"""
    return Page("The certificate: cost and prediction", finding, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one object, few images; writes no result")
    parser.add_argument("--work", type=Path, default=Path("certificate"), help="finished objects and settings")
    arguments = parser.parse_args()
    model, judge = efface.open_model("emoji"), open_judge("emoji")
    if arguments.quick:
        arguments.work = Path(tempfile.mkdtemp())
    arguments.work.mkdir(parents=True, exist_ok=True)
    names, n = (OBJECTS[:1], 4) if arguments.quick else (OBJECTS, IMAGES)
    content = {name: run(model, judge, name, n, arguments.work) for name in names}
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    plot(content, (arguments.work if arguments.quick else RESULTS) / "certificate.svg")
    if not arguments.quick:
        write("certificate", content, result, machine(), f"judge {judge.name} {judge.version}")


if __name__ == "__main__":
    main()
