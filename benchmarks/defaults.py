"""Forget and retain rates of a method without any option on the embedded model: what the first command of a user does.

    python benchmarks/defaults.py              uce, all objects and styles, 40 images of each rate
    python benchmarks/defaults.py --quick      two concepts and few images, in a temporary folder; writes no result

Each concept is erased alone as by `efface erase NAME`, which takes the guide that the model recommends, and with
`-s preset=published`, the published default. The `err` protocol with the embedded judge evaluates both on the same
prompts and seeds. Writes results/defaults.md and .json.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from efface.models.emoji import catalogue
from efface.request.record import Kind
from pages import Page
from quality import Setting, benchmark, details, mean, of_setting, overview

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


def kinds_of_all() -> dict[str, Kind]:
    """The kind of every object and style of the embedded models."""
    world = catalogue()
    kinds: dict[str, Kind] = dict.fromkeys((thing.name for thing in world.objects), "object")
    kinds |= dict.fromkeys((style.name for style in world.styles), "style")
    return kinds


if __name__ == "__main__":
    benchmark("defaults", __doc__ or "", list(kinds_of_all().items()), SETTINGS, IMAGES, page)
