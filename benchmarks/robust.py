"""Five attacks on UCE, RECE, the certified and the robust eraser.

    python benchmarks/robust.py            five objects, all settings; writes results/robust.md and .json
    python benchmarks/robust.py --quick    one object and few images, in a temporary folder; writes no result

Each object is erased alone, towards the guide of the catalogue, with the other objects preserved. The embedded judge
then counts the images that show the object:
- `direct`: prompts with its name, over templates and styles;
- `synonyms`: the same prompts with the catalogue's other words for it, including those that no training caption had;
- `words`: the same prompts with the ten words of the vocabulary that the edited model reads nearest to the concept,
  without its name and the preserved names;
- `embeddings`: the direct prompts with every token replaced by the embedding that restores its keys and values best.
  This attack undoes every invertible edit;
- `gradient`: the guide's prompts with one shift on all tokens, found by gradient on the denoising loss of the edited
  model, with other noise than the search of `robust`.
`retained` counts the images of other objects, near ones first, that show the prompted object. The row of the unedited
model is the upper bound of each attack. The work folder stores the verdicts, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

import efface
from attacks import drawn, edit_of, nearest_words, prompts, restored, shifted, unseen
from efface import Eraser
from efface.generation import Sampling
from efface.judges import Judge, open_judge
from efface.metrics.rates import wilson
from efface.models import Model
from efface.models.builtin import WorldObject
from efface.models.emoji import catalogue
from efface.models.text_gram import text_gram
from pages import Page, machine, table, write
from quality import Setting, request_of

OBJECTS = ("cat", "fish", "church", "sailboat", "guitar")
IMAGES = 16
ARMS = ("direct", "synonyms", "words", "embeddings", "gradient", "retained")
BASE = "unedited"

SETTINGS = {
    "uce": Setting(options={"variant": "window", "lamb": 0.1}, preserve=True),
    "rece": Setting("rece", preserve=True),
    "certified": Setting("certified", preserve=True),
    "robust": Setting("robust", preserve=True),
    "robust, ridge": Setting("robust", {"solve": "uce"}, preserve=True),
    "robust, with gradient": Setting("robust", {"gradient": 40}, preserve=True),
}

Row = dict[str, Any]


def measured(model: Model, judge: Judge, thing: WorldObject, eraser: Eraser | None, n: int) -> Row:
    """The number of images, out of n of each attack, that show the concept."""
    gram, edit = text_gram(model), edit_of(eraser, model.width)
    others = [other.name for other in catalogue().objects if other.name not in (thing.name, thing.guide)]
    others = [*(name for name in thing.near if name in others), *(name for name in others if name not in thing.near)]
    preserved = list(eraser.request.preserve) if eraser else others
    words = nearest_words(model, edit, gram, thing, preserved)
    direct = prompts([thing.name], n, unseen(thing.name))
    gradient, score = shifted(model, edit, thing, prompts([thing.guide], n, unseen(thing.guide)))
    retained = [prompts([name], turn + 1, unseen(name))[-1] for turn, name in enumerate(islice(cycle(others), n))]
    texts = {
        "direct": model.embed(direct).tokens,
        "synonyms": model.embed(prompts([*thing.synonyms, *thing.held_out], n, unseen(thing.name))).tokens,
        "words": model.embed(prompts(words, n, unseen(thing.name))).tokens,
        "embeddings": restored(edit, gram, model.embed(direct).tokens),
        "gradient": gradient,
        "retained": model.embed(retained).tokens,
    }
    row: Row = {"words": words, "gradient_score": score, "n": n, "shown": {}}
    for arm, embedded in texts.items():
        pictures = drawn(model, eraser, embedded, Sampling.default(model))
        prompted = list(islice(cycle(others), n)) if arm == "retained" else [thing.name] * n
        names = list(dict.fromkeys(prompted))
        scores = judge.scores(pictures, names)
        row["shown"][arm] = sum(
            bool(scores[index, names.index(name)] >= judge.threshold(name)) for index, name in enumerate(prompted)
        )
    return row


def run(model: Model, judge: Judge, name: str, n: int, work: Path) -> dict[str, Row]:
    """One object under every setting; settings in the work folder are not measured again."""
    thing = next(thing for thing in catalogue().objects if thing.name == name)
    rows: dict[str, Row] = {}
    for label, setting in {BASE: None, **SETTINGS}.items():
        request = None if setting is None else request_of(name, "object", setting)
        facts = {
            "model": model.hash,
            "judge": judge.version,
            "n": n,
            "sampling": str(Sampling.default(model)),
            "request": request and request.model_dump(mode="json"),
        }
        stored = work / f"{name}-{label.replace(', ', '-').replace(' ', '-')}.json"
        if stored.exists() and (content := json.loads(stored.read_text()))["facts"] == facts:
            rows[label] = content["row"]
            continue
        eraser = None if request is None else efface.erase(model, request, certify=True)
        row = measured(model, judge, thing, eraser, n)
        if eraser is not None:
            searched = [one for of_round in eraser.provenance.get("search", []) for one in of_round["found"]]
            row |= {"certificate": (eraser.certificate or {})[name], "rank": eraser.rank, "found": searched}
            row["seconds"] = sum(eraser.provenance["seconds"].values())
        stored.write_text(json.dumps({"facts": facts, "row": row}, indent=1))
        rows[label] = row
        print(f"  {label}: " + ", ".join(f"{arm} {row['shown'][arm]}/{n}" for arm in ARMS), flush=True)
    return rows


def overview(content: dict[str, dict[str, Row]]) -> str:
    """A line per setting: images of all objects together, with Wilson's interval."""
    heads = ["setting", *ARMS, "free / ceiling", "text / ceiling", "gradient score", "rank", "seconds"]
    lines: list[list[str]] = []
    for label in (BASE, *SETTINGS):
        rows = [settings[label] for settings in content.values()]
        total = sum(row["n"] for row in rows)
        cells = [rate(sum(row["shown"][arm] for row in rows), total) for arm in ARMS]
        scores = f"{np.mean([row['gradient_score'] for row in rows]):.2f}"
        cells += [share(rows, "free"), share(rows, "text"), scores]
        cells += [median(rows, "rank", "{:.0f}"), median(rows, "seconds", "{:.2f}")]
        lines.append([label, *cells])
    return table(heads, lines)


def rate(shown: int, n: int) -> str:
    value = wilson(shown, n)
    return f"{shown} of {n} [{value.low:.0%}, {value.high:.0%}]"


def share(rows: Sequence[Row], number: str) -> str:
    shares = [row["certificate"][number] / row["certificate"]["ceiling"] for row in rows if "certificate" in row]
    return f"{np.mean(shares):.2f}" if shares else ""


def median(rows: Sequence[Row], key: str, form: str) -> str:
    return form.format(np.median([row[key] for row in rows])) if all(key in row for row in rows) else ""


def details(content: dict[str, dict[str, Row]]) -> str:
    """A line per object and setting."""
    heads = ["object", "setting", "free / ceiling", "embeddings", "gradient", "direct", "synonyms", "nearest words"]
    lines: list[list[str]] = []
    for name, label in product(content, (BASE, *SETTINGS)):
        row = content[name][label]
        cells = [name, label, share([row], "free")]
        cells += [f"{row['shown'][arm]}/{row['n']}" for arm in ("embeddings", "gradient", "direct", "synonyms")]
        lines.append([*cells, ", ".join(row["words"][:5])])
    return table(heads, lines)


def page(content: Any) -> Page:
    """The result page of the numbers in robust.json."""

    def shown(label: str, arm: str) -> int:
        return sum(settings[label]["shown"][arm] for settings in content.values())

    total = sum(settings[BASE]["n"] for settings in content.values())
    finding = (
        f"The embeddings that restore keys and values best restore the object in {shown('uce', 'embeddings')} of "
        f"{total} images with `uce`, {shown('rece', 'embeddings')} with `rece`, "
        f"{shown('certified', 'embeddings')} with `certified` and {shown('robust', 'embeddings')} with `robust`; a "
        f"gradient attack reaches it in {shown(BASE, 'gradient')} without an eraser, {shown('rece', 'gradient')} with "
        f"`rece`, {shown('robust', 'gradient')} with `robust`, and {shown('robust, with gradient', 'gradient')} if "
        f"`robust` also searches by gradient."
    )
    options = [f"- {label}: `{setting.method}` {json.dumps(setting.options)}" for label, setting in SETTINGS.items()]
    body = f"""
{len(content)} objects of the embedded model, each erased alone with the others preserved. Counts are images that show
the object (`{ARMS[-1]}`: the prompted object), with Wilson's 95% interval. It assumes independent images; images of one
object are not fully independent. Free and text are the certificate's numbers as shares of its ceiling, means over
objects.

{overview(content)}

{chr(10).join(options)}

{details(content)}
"""
    return Page("Attacks on closed forms", finding, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one object, few images; writes no result")
    parser.add_argument("--work", type=Path, default=Path("robust"), help="finished objects and settings")
    arguments = parser.parse_args()
    model, judge = efface.open_model("emoji"), open_judge("emoji")
    if arguments.quick:
        arguments.work = Path(tempfile.mkdtemp())
    arguments.work.mkdir(parents=True, exist_ok=True)
    content: dict[str, dict[str, Row]] = {}
    for name in OBJECTS[:1] if arguments.quick else OBJECTS:
        print(name, flush=True)
        content[name] = run(model, judge, name, 4 if arguments.quick else IMAGES, arguments.work)
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    if not arguments.quick:
        write("robust", content, result, machine(), f"judge {judge.name} {judge.version}")


if __name__ == "__main__":
    main()
