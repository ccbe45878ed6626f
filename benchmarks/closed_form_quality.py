"""All closed forms on the embedded model: what each makes it forget, and what that costs the rest.

    python benchmarks/closed_form_quality.py            ten objects, five styles, the weapon theme; every setting
    python benchmarks/closed_form_quality.py --quick    two concepts and few images; writes no result

Each concept is erased alone, the four weapons together, towards the guides that the catalogue names, by every method
with its published defaults and, where that is not its best on this model, with settings that are. The `err` protocol
with the embedded judge says what came of it. Writes results/closed_form_quality.md and .json.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import efface
from efface.judges import Judge, open_judge
from efface.request.record import Kind
from efface.settings import Scalar
from quality import OBJECTS, WEAPONS, Found, Setting, details, keep, overview, run_all

STYLES = ("3d", "line art", "stencil", "pixel art", "blueprint")
IMAGES = 24
#: A style shows early on the way to a picture.
NOISIER: dict[str, Scalar] = {"first_timestep": 300, "last_timestep": 900, "lr": 0.5, "adam_steps": 10}
SETTINGS = {
    "uce token": Setting(),
    "uce window, best": Setting(options={"variant": "window", "lamb": 0.1}, preserve=True),
    "uce tensor": Setting(options={"variant": "window", "technique": "tensor", "lamb": 0.1}, preserve=True),
    "rece": Setting("rece", preserve=True),
    "certified": Setting("certified", preserve=True),
    "robust": Setting("robust", preserve=True),
    "nullspace": Setting("nullspace", preserve=True, by_kind={"style": Setting("nullspace", NOISIER)}),
    "cure": Setting(
        "cure", preserve=True, guided=False, by_kind={"unsafe": Setting("cure", {"alpha": 1e4}, guided=False)}
    ),
    "speed": Setting("speed", preserve=True, by_kind={"style": Setting("speed", {"params": "KV"}, preserve=True)}),
    "oce": Setting("oce", preserve=True),
    "adavd": Setting("adavd", guided=False, by_kind={"style": Setting("adavd", {"sigmoid_b": 0.5}, guided=False)}),
    "negative": Setting("negative", guided=False),
    "sld max": Setting("sld", {"preset": "max"}, guided=False),
}


#: Why a method forgets less than uce, where it does.
WHY = {
    "rece": (
        "its window holds tokens that styles have in common. On blueprint, three epochs gave 83% and kept 33%, nothing "
        "preserved 42% and 25%."
    ),
    "cure": (
        "it has no guide, and what else the prompt says is enough for some things; it also leaves the directions that "
        "retained prompts share. On car and apple, retaining nothing, alpha 100 and `tokens=window` gave 0% to 58%."
    ),
    "nullspace": (
        "it may only use directions that the everyday prompts leave free, and edits the concept's bare prompt; in a "
        "sentence the words are other inputs of the layer."
    ),
    "adavd": ("it takes out what a value shares with that of the bare name, and in a sentence values are less alike."),
    "negative": (
        "only what guidance leads away from is changed; the conditional prediction still reads the concept, and "
        "guidance adds to that."
    ),
    "sld max": (
        "it steers by how far the prompt's prediction is from the concept's, over all its concepts at once, and stops "
        "where they are no longer near; what it steers towards is nowhere said."
    ),
}


def less(found: Found) -> str:
    """A line for each setting that forgets less than uce's better one, at which concepts, and why."""
    best = {name: max(forgotten(rows[said]) for said in rows if said.startswith("uce")) for name, rows in found.items()}
    lines: list[str] = []
    for said in SETTINGS:
        if said.startswith("uce"):
            continue
        below = {name: forgotten(rows[said]) for name, rows in found.items() if forgotten(rows[said]) < best[name]}
        if below:
            where = ", ".join(f"{name} {value:.0%}" for name, value in below.items())
            lines.append(f"- {said}: {where}" + (f": {WHY[said]}" if said in WHY else "."))
    return "\n".join(lines)


def forgotten(row: dict[str, Any]) -> float:
    return row["metrics"]["forget"]["value"]


def page(found: Found, judge: Judge) -> str:
    return f"""# Closed forms on the embedded model

{len(found)} concepts, each erased alone, the weapons together; judge {judge.name} {judge.version}. Made by
`python benchmarks/closed_form_quality.py`, whose first lines say what is measured. Means over concepts, with 95%
intervals from a bootstrap over concepts; below, of each concept, intervals clustered by prompt. Seconds and bytes are
medians: of erasing on one thread of a busy machine, the model being open, and of the edit alone, without what restoring
needs.

{overview(found)}

Where a method forgets less than uce does at its best (96% is one picture of 24). The reasons are our
reading of the formulas, the numbers in them of 12 images:

{less(found)}

{details(found, SETTINGS)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two concepts, few images; writes no result")
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), help="these settings; writes no result")
    parser.add_argument("--work", type=Path, default=Path("closed_form_quality"), help="images and finished concepts")
    arguments = parser.parse_args()
    model, judge = efface.open_model("emoji"), open_judge("emoji")
    kinds: dict[str, Kind] = {**dict.fromkeys(OBJECTS, "object"), **dict.fromkeys(STYLES, "style")}
    kinds[WEAPONS] = "unsafe"
    concepts = list(kinds.items())
    if arguments.quick:
        concepts = [concepts[0], concepts[-2]]
        arguments.work = Path(tempfile.mkdtemp())
    settings = {name: SETTINGS[name] for name in arguments.only or SETTINGS}
    found = run_all(model, judge, concepts, settings, 8 if arguments.quick else IMAGES, arguments.work)
    text = page(found, judge)
    print("\n" + text)
    if not arguments.quick and not arguments.only:
        keep(found, text, "closed_form_quality")


if __name__ == "__main__":
    main()
