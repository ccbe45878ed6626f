"""The certificate against what it costs, and against what attacks achieve: a plot.

    python benchmarks/certificate.py            five objects; writes results/certificate.md, .json and .svg
    python benchmarks/certificate.py --quick    one object and few images, in a temporary folder; writes no result

Each object is erased alone, towards the guide that the catalogue names, by `certified` with more and less preserved
exactly, by `uce` with weaker and stronger ridges, and by `rece`. Of each eraser:
- `certificate`: the free one, as a share of its ceiling;
- `collateral`: how far prompts about other objects move that nobody preserved: |Me - e| / |e| over all tokens, in the S
  norm;
- `forgotten`: how many pictures prompted by name no longer show the object, says the embedded judge;
- `restored`: how many show it after all when every token of the prompt is the embedding, of all there are, that best
  restores its keys and values.
Verdicts are kept under --work, so that an interrupted run goes on where it stopped.
"""

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
from quality import RESULTS, Setting, keep, request_of

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
    """How many pictures show something."""
    return int((judge.scores(pictures, [name]) >= judge.threshold(name)).sum())


def collateral(model: Model, edit: TextEdit, gram: TextGram, spared: list[str]) -> float:
    """Mean relative change of whole prompts in the S norm."""
    tokens = model.embed(prompts(spared, OTHERS)).tokens.double()  # (n, T, d)
    moved, size = (gram.norms(rows.flatten(0, 1)).reshape(rows.shape[:2]) for rows in (edit(tokens) - tokens, tokens))
    return float((moved.norm(dim=1) / size.norm(dim=1)).mean())


def run(model: Model, judge: Judge, name: str, n: int, work: Path) -> dict[str, Row]:
    """One object under every setting; what was measured before is not measured again."""
    gram, sampling = text_gram(model), Sampling.default(model)
    thing = next(thing for thing in catalogue().objects if thing.name == name)
    others = [other.name for other in catalogue().objects if other.name not in (thing.name, thing.guide)]
    said = prompts([name], n, unseen(name))
    tokens = model.embed(said).tokens
    found: dict[str, Row] = {}
    for label, setting in SETTINGS.items():
        request = request_of(name, "object", setting)
        facts: dict[str, Any] = {"model": model.hash, "judge": judge.version, "n": n, "sampling": str(sampling)}
        facts["request"] = request.model_dump(mode="json")
        kept = work / f"{name}-{label.replace(', ', '-').replace(' ', '-')}.json"
        if kept.exists() and (content := json.loads(kept.read_text()))["facts"] == facts:
            found[label] = content["row"]
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
        kept.write_text(json.dumps({"facts": facts, "row": row}, indent=1))
        found[label] = row
        print(f"  {name}, {label}: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()), flush=True)
    return found


def table(found: dict[str, dict[str, Row]]) -> str:
    heads = ("setting", "certificate / ceiling", "collateral", "forgotten", "restored by embeddings")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for label in SETTINGS:
        rows = [settings[label] for settings in found.values()]
        cells = [f"{np.mean([row[key] for row in rows]):.2f}" for key in ("certificate", "collateral")]
        cells += [f"{np.mean([row[key] for row in rows]):.0%}" for key in ("forgotten", "restored")]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join(lines)


def correlation(found: dict[str, dict[str, Row]], key: str) -> str:
    """Spearman's, of the certificate with something else, over all erasers."""
    from scipy.stats import spearmanr

    rows = [row for settings in found.values() for row in settings.values()]
    if len({row[key] for row in rows}) == 1:
        return "none, as all erasers are alike in it"
    ranks: Any = spearmanr([row["certificate"] for row in rows], [row[key] for row in rows])
    return f"{float(ranks.statistic):+.2f}"


def plot(found: dict[str, dict[str, Row]], path: Path) -> None:
    """Each eraser a point, its colour the method: the certificate against the three others."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "efface", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    colours = {"uce": "#c2410c", "rece": "#7c3aed", "certified": "#0f766e"}
    titles = {
        "collateral": "Change of prompts nobody preserved",
        "forgotten": "Pictures without the concept, by name",
        "restored": "Pictures with it, by the best embedding",
    }
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        for method, colour in colours.items():
            rows = [r for of in found.values() for said, r in of.items() if said.split(",")[0] == method]
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


def page(found: dict[str, dict[str, Row]], judge: Judge) -> str:
    return f"""# What the certificate costs, and what it predicts

{len(found)} objects of the embedded model, each erased alone with the others preserved, {len(SETTINGS)} settings; judge
{judge.name} {judge.version}. Made by `python benchmarks/certificate.py`, whose first lines say what is measured.

![Certificate against collateral change, forgetting and restoring](certificate.svg)

Means over objects:

{table(found)}

Spearman's rank correlation of the certificate over all {sum(map(len, found.values()))} erasers:

- with collateral change {correlation(found, "collateral")},
- with forgetting {correlation(found, "forgotten")},
- with what the best embedding restores {correlation(found, "restored")}.
"""


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
    found = {name: run(model, judge, name, n, arguments.work) for name in names}
    text = page(found, judge)
    print("\n" + text)
    plot(found, (arguments.work if arguments.quick else RESULTS) / "certificate.svg")
    if not arguments.quick:
        keep(found, text, "certificate")


if __name__ == "__main__":
    main()
