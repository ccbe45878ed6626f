"""Forget and retain rates of a method without any option on the embedded model: what the first command of a user does.

    python benchmarks/defaults.py              uce, all objects and styles, 40 images of each rate
    python benchmarks/defaults.py --quick      two concepts and few images, in a temporary folder; writes no result

Each concept is erased alone as by `efface erase NAME`, which takes the guide that the model recommends, and with
`-s preset=published`, the published default. The `err` protocol with the embedded judge evaluates both on the same
prompts and seeds. Writes results/defaults.md and .json.
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
from efface.models.emoji import catalogue
from efface.request.record import Kind
from pages import Page, machine, write
from quality import Setting, details, mean, of_setting, overview, run_all

IMAGES = 40
SETTINGS = {
    "default": Setting(guided=False),
    "published": Setting(guided=False, options={"preset": "published"}),
}


def page(content: Any) -> Page:
    """The result page of the numbers in defaults.json."""
    rows, published = of_setting(content, "default"), of_setting(content, "published")
    changes = {name: 100 * settings["default"]["change"]["retain"]["value"] for name, settings in content.items()}
    worst = min(changes, key=lambda name: changes[name])
    low = [name for name, settings in content.items() if settings["default"]["metrics"]["forget"]["high"] < 0.9]
    finding = (
        f"Over {len(content)} concepts, `efface erase NAME` forgets {mean(rows, 'metrics', 'forget'):.1%}, and "
        f"{mean(rows, 'metrics', 'indirect'):.1%} in indirect prompts; with the published default it forgets "
        f"{mean(published, 'metrics', 'forget'):.1%} and {mean(published, 'metrics', 'indirect'):.1%}. The retain rate "
        f"changes by {100 * mean(rows, 'change', 'retain'):+.1f} points on average, at worst by {changes[worst]:+.1f} "
        f"({worst})."
    )
    body = f"""
Each concept is erased alone. Means over concepts, with 95% intervals from a bootstrap over concepts; in the tables of
concepts, intervals are clustered by prompt. `base` is the unedited model. Concepts whose interval of the forget rate
lies below 90%: {", ".join(low) or "none"}.

{overview(content)}

{details(content, SETTINGS)}
"""
    return Page("Defaults: the first command of a user", finding, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two concepts, few images; writes no result")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--judge", default="emoji")
    parser.add_argument("--work", type=Path, default=Path("defaults"), help="images and finished concepts")
    arguments = parser.parse_args()
    model, judge, world = efface.open_model(arguments.model), open_judge(arguments.judge), catalogue()
    kinds: dict[str, Kind] = dict.fromkeys((thing.name for thing in world.objects), "object")
    kinds |= dict.fromkeys((style.name for style in world.styles), "style")
    concepts = list(kinds.items())
    if arguments.quick:
        concepts = [concepts[0], concepts[-1]]
        arguments.work = Path(tempfile.mkdtemp())
    content = run_all(model, judge, concepts, SETTINGS, 8 if arguments.quick else IMAGES, arguments.work)
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    if not arguments.quick:
        write("defaults", content, result, machine(), f"judge {judge.name} {judge.version}")


if __name__ == "__main__":
    main()
