"""Forget rate and retain rate of the closed forms and guidance methods on the embedded model.

    python benchmarks/closed_form_quality.py            ten objects, five styles, the weapon theme; every setting
    python benchmarks/closed_form_quality.py --quick    two concepts and few images; writes no result

Each concept is erased alone, the four weapons together, towards the guides of the catalogue. Every method runs with its
published defaults or, where others work better on this model, with these. The `err` protocol with the embedded judge
evaluates each eraser. Writes results/closed_form_quality.md and .json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import efface
from efface.judges import open_judge
from efface.request.record import Kind
from efface.settings import Scalar
from pages import Page, machine, write
from quality import OBJECTS, WEAPONS, Row, Rows, Setting, details, mean, of_setting, overview, run_all

STYLES = ("3d", "line art", "stencil", "pixel art", "blueprint")
IMAGES = 24
#: Styles are decided at the noisier timesteps.
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


#: The likely reason why a method forgets less than uce on some concepts.
REASONS = {
    "rece": (
        "Its window contains tokens that styles have in common. On blueprint, three epochs gave a forget rate of 83% "
        "and a retain rate of 33%; without preserved prompts 42% and 25%."
    ),
    "cure": (
        "It has no guide, and for some concepts the other words of the prompt are enough to draw them. It also leaves "
        "out the directions that preserved prompts share. On car and apple, no preserved prompts, alpha 100 and "
        "`tokens=window` gave 0% to 58%."
    ),
    "nullspace": (
        "It uses only directions that the everyday prompts leave free, and it edits the concept's bare prompt; in a "
        "sentence, the layer reads the words with other inputs."
    ),
    "adavd": (
        "It removes the part that a value shares with the value of the bare name; in a sentence the two values are "
        "less similar."
    ),
    "negative": (
        "It changes only the prediction that guidance moves away from. The conditional prediction still reads the "
        "concept, and guidance amplifies it."
    ),
    "sld max": (
        "It steers by the distance between the prompt's prediction and that of all its concepts together, and stops "
        "where they are no longer near; it has no guide to steer towards."
    ),
}


def below_uce(rows: Rows) -> str:
    """A line for each setting that forgets less than the best of uce: the concepts, and the likely reason."""
    best = {
        concept: max(forget(settings[label]) for label in settings if label.startswith("uce"))
        for concept, settings in rows.items()
    }
    lines: list[str] = []
    for label in SETTINGS:
        if label.startswith("uce"):
            continue
        below = {
            concept: forget(settings[label])
            for concept, settings in rows.items()
            if forget(settings[label]) < best[concept]
        }
        if below:
            rates = ", ".join(f"{concept} {value:.0%}" for concept, value in below.items())
            lines.append(f"- {label}: {rates}." + (f" {REASONS[label]}" if label in REASONS else ""))
    return "\n".join(lines)


def forget(row: Row) -> float:
    return row["metrics"]["forget"]["value"]


#: The settings of the finding that erase well.
STRONG = ("uce token", "certified", "robust", "oce", "speed")


def page(content: Any) -> Page:
    """The result page of the numbers in closed_form_quality.json."""

    def lost(label: str) -> float:
        return -100 * mean(of_setting(content, label), "change", "retain")

    rates = {label: mean(of_setting(content, label), "metrics", "forget") for label in SETTINGS}
    strong = [rates[label] for label in STRONG]
    finding = (
        f"Over {len(content)} concepts, `uce`, `certified`, `robust`, `oce` and `speed` forget {min(strong):.1%} to "
        f"{max(strong):.1%} and lose at most {max(map(lost, STRONG)):.1f} points of retain rate; `rece` loses "
        f"{lost('rece'):.1f}; a negative prompt forgets {rates['negative']:.0%}, and safe latent diffusion "
        f"{rates['sld max']:.0%} with {lost('sld max'):.0f} points lost."
    )
    body = f"""
Each concept is erased alone, the weapons together. Means over concepts, with 95% intervals from a bootstrap over
concepts; in the tables of concepts, intervals are clustered by prompt. `base` is the unedited model. Seconds and bytes
are medians: seconds of erasing with an open model on one thread of a busy machine, bytes of the edit alone, without the
data for restoring.

{overview(content)}

Settings that forget less than the best of uce, with the concepts (96% is one image of 24). The reasons are our reading
of the formulas; the numbers in them are over 12 images:

{below_uce(content)}

{details(content, SETTINGS)}
"""
    return Page("Closed forms and guidance methods: forget and retain rates", finding, body)


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
    content = run_all(model, judge, concepts, settings, 8 if arguments.quick else IMAGES, arguments.work)
    if arguments.only:
        print("\n" + overview(content))
        return
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    if not arguments.quick:
        write("closed_form_quality", content, result, machine(), f"judge {judge.name} {judge.version}")


if __name__ == "__main__":
    main()
