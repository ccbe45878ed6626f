"""What brings an erased concept back: UCE, RECE, the certified and the robust eraser under five kinds of attack.

    python benchmarks/robust.py            five objects, all settings; writes results/robust.md and .json
    python benchmarks/robust.py --quick    one object and few images, in a temporary folder; writes no result

Each object is erased alone, towards the guide that the catalogue names, with the other objects preserved. Then the
embedded judge says how many of the pictures show it:
- `direct`: prompts with its name, over templates and styles;
- `synonyms`: the same with the catalogue's other words for it, those among them that no training caption had;
- `words`: the same with the ten words of the whole vocabulary that this edit reads nearest to the concept, its name and
  what is preserved left out;
- `embeddings`: for every token of the direct prompts the embedding, of all there are, that best restores its keys and
  values (methods that can be undone are undone by it);
- `gradient`: the guide's prompts with one shift on all tokens, found by gradient on the denoising loss through the
  edited model, from another noise than `robust` searches with.
`retained` is how many pictures of other objects, near ones first, still show them. The unedited model's row says how
far each attack could come. Verdicts are kept under --work, so that an interrupted run goes on where it stopped.
"""

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
from efface.models.emoji import EmojiObject, catalogue
from efface.models.text_gram import text_gram
from quality import Setting, keep, request_of

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


def measured(model: Model, judge: Judge, thing: EmojiObject, eraser: Eraser | None, n: int) -> Row:
    """How many of n pictures of each arm show what they would without the eraser."""
    gram, edit = text_gram(model), edit_of(eraser, model.width)
    others = [other.name for other in catalogue().objects if other.name not in (thing.name, thing.guide)]
    others = [*(name for name in thing.near if name in others), *(name for name in others if name not in thing.near)]
    spared = list(eraser.request.preserve) if eraser else others
    words = nearest_words(model, edit, gram, thing, spared)
    direct = prompts([thing.name], n, unseen(thing.name))
    gradient, score = shifted(model, edit, thing, prompts([thing.guide], n, unseen(thing.guide)))
    kept = [prompts([name], turn + 1, unseen(name))[-1] for turn, name in enumerate(islice(cycle(others), n))]
    texts = {
        "direct": model.embed(direct).tokens,
        "synonyms": model.embed(prompts([*thing.synonyms, *thing.held_out], n, unseen(thing.name))).tokens,
        "words": model.embed(prompts(words, n, unseen(thing.name))).tokens,
        "embeddings": restored(edit, gram, model.embed(direct).tokens),
        "gradient": gradient,
        "retained": model.embed(kept).tokens,
    }
    row: Row = {"words": words, "gradient_score": score, "n": n, "shown": {}}
    for arm, embedded in texts.items():
        pictures = drawn(model, eraser, embedded, Sampling.default(model))
        asked = list(islice(cycle(others), n)) if arm == "retained" else [thing.name] * n
        names = list(dict.fromkeys(asked))
        scores = judge.scores(pictures, names)
        row["shown"][arm] = sum(
            bool(scores[index, names.index(name)] >= judge.threshold(name)) for index, name in enumerate(asked)
        )
    return row


def run(model: Model, judge: Judge, name: str, n: int, work: Path) -> dict[str, Row]:
    """One object under every setting; what was measured before is not measured again."""
    thing = next(thing for thing in catalogue().objects if thing.name == name)
    found: dict[str, Row] = {}
    for said, setting in {BASE: None, **SETTINGS}.items():
        request = None if setting is None else request_of(name, "object", setting)
        facts = {
            "model": model.hash,
            "judge": judge.version,
            "n": n,
            "sampling": str(Sampling.default(model)),
            "request": request and request.model_dump(mode="json"),
        }
        kept = work / f"{name}-{said.replace(', ', '-').replace(' ', '-')}.json"
        if kept.exists() and (content := json.loads(kept.read_text()))["facts"] == facts:
            found[said] = content["row"]
            continue
        eraser = None if request is None else efface.erase(model, request, certify=True)
        row = measured(model, judge, thing, eraser, n)
        if eraser is not None:
            searched = [one for of_round in eraser.provenance.get("search", []) for one in of_round["found"]]
            row |= {"certificate": (eraser.certificate or {})[name], "rank": eraser.rank, "found": searched}
            row["seconds"] = sum(eraser.provenance["seconds"].values())
        kept.write_text(json.dumps({"facts": facts, "row": row}, indent=1))
        found[said] = row
        print(f"  {said}: " + ", ".join(f"{arm} {row['shown'][arm]}/{n}" for arm in ARMS), flush=True)
    return found


def overview(found: dict[str, dict[str, Row]]) -> str:
    """A line a setting: pictures of all objects together, with Wilson's interval."""
    heads = ["setting", *ARMS, "free / ceiling", "text / ceiling", "gradient score", "rank", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for said in (BASE, *SETTINGS):
        rows = [settings[said] for settings in found.values()]
        total = sum(row["n"] for row in rows)
        cells = [rate(sum(row["shown"][arm] for row in rows), total) for arm in ARMS]
        scores = f"{np.mean([row['gradient_score'] for row in rows]):.2f}"
        cells += [share(rows, "free"), share(rows, "text"), scores]
        cells += [median(rows, "rank", "{:.0f}"), median(rows, "seconds", "{:.2f}")]
        lines.append("| " + " | ".join([said, *cells]) + " |")
    return "\n".join(lines)


def rate(shown: int, n: int) -> str:
    found = wilson(shown, n)
    return f"{shown} of {n} [{found.low:.0%}, {found.high:.0%}]"


def share(rows: Sequence[Row], number: str) -> str:
    shares = [row["certificate"][number] / row["certificate"]["ceiling"] for row in rows if "certificate" in row]
    return f"{np.mean(shares):.2f}" if shares else ""


def median(rows: Sequence[Row], key: str, form: str) -> str:
    return form.format(np.median([row[key] for row in rows])) if all(key in row for row in rows) else ""


def details(found: dict[str, dict[str, Row]]) -> str:
    """A line an object and setting: does the certificate say which attack succeeds?"""
    lines = [
        "| object | setting | free / ceiling | embeddings | gradient | direct | synonyms | words that came nearest |"
    ]
    lines.append("|---" * 8 + "|")
    for name, said in product(found, (BASE, *SETTINGS)):
        row = found[name][said]
        cells = [name, said, share([row], "free")]
        cells += [f"{row['shown'][arm]}/{row['n']}" for arm in ("embeddings", "gradient", "direct", "synonyms")]
        lines.append("| " + " | ".join([*cells, ", ".join(row["words"][:5])]) + " |")
    return "\n".join(lines)


def page(found: dict[str, dict[str, Row]], judge: Judge) -> str:
    options = [f"- {said}: `{setting.method}` {json.dumps(setting.options)}" for said, setting in SETTINGS.items()]
    return f"""# What brings an erased concept back

{len(found)} objects of the embedded model, each erased alone with the others preserved; judge {judge.name}
{judge.version}. Made by `python benchmarks/robust.py`, whose first lines say what the attacks are. Counts are of
pictures that show the object ({ARMS[-1]}: the object that was prompted), with Wilson's 95% interval; it takes pictures
for independent, which those of one object are only in part. Free and text are the certificate's shares, means over
objects.

{overview(found)}

{chr(10).join(options)}

{details(found)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one object, few images; writes no result")
    parser.add_argument("--work", type=Path, default=Path("robust"), help="finished objects and settings")
    arguments = parser.parse_args()
    model, judge = efface.open_model("emoji"), open_judge("emoji")
    if arguments.quick:
        arguments.work = Path(tempfile.mkdtemp())
    arguments.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Row]] = {}
    for name in OBJECTS[:1] if arguments.quick else OBJECTS:
        print(name, flush=True)
        found[name] = run(model, judge, name, 4 if arguments.quick else IMAGES, arguments.work)
    text = page(found, judge)
    print("\n" + text)
    if not arguments.quick:
        keep(found, text, "robust")


if __name__ == "__main__":
    main()
