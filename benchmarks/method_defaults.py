"""Forget and retain rates of rece and nullspace without any option on the embedded model.

    python benchmarks/method_defaults.py            ten objects, five styles, the weapon theme, 64 images of each rate
    python benchmarks/method_defaults.py --quick    two concepts and few images; writes no result

Each concept is erased alone, the four weapons together, as by `efface erase NAME --method METHOD`, with the guides and
settings that the model recommends, and with `-s preset=published`, the published defaults. The `err` protocol with the
embedded judge evaluates each eraser on the same prompts and seeds. Writes results/method_defaults.md and .json.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from closed_form_quality import STYLES
from efface.request.record import Kind
from pages import Page
from quality import OBJECTS, WEAPONS, Rows, Setting, benchmark, details, mean, of_setting, overview, passed

METHODS = ("rece", "nullspace")
IMAGES = 64
PUBLISHED = "{}, published"
SETTINGS = {method: Setting(method, guided=False) for method in METHODS} | {
    PUBLISHED.format(method): Setting(method, {"preset": "published"}, guided=False) for method in METHODS
}


def finding(rows: Rows, method: str) -> str:
    """What the numbers of one method show, in two sentences."""
    default, published = of_setting(rows, method), of_setting(rows, PUBLISHED.format(method))
    enough = [row for row in default if passed(row)]
    return (
        f"`efface erase NAME --method {method}` forgets {mean(default, 'metrics', 'forget'):.1%}, and "
        f"{mean(default, 'metrics', 'indirect'):.1%} in indirect prompts, and changes the retain rate by "
        f"{100 * mean(default, 'change', 'retain'):+.1f} points; {len(enough)} of {len(default)} concepts forget 90% "
        f"or more and lose at most 5 points. The published settings forget "
        f"{mean(published, 'metrics', 'forget'):.1%} at {100 * mean(published, 'change', 'retain'):+.1f} points."
    )


def page(content: Any) -> Page:
    """The result page of the numbers in method_defaults.json."""
    body = f"""
Means over concepts, with 95% intervals from a bootstrap over concepts; in the tables of concepts, intervals are
clustered by prompt. `base` is the unedited model.

{overview(content)}

{details(content, SETTINGS)}
"""
    return Page(f"Defaults of {' and '.join(METHODS)}", " ".join(finding(content, method) for method in METHODS), body)


def main() -> None:
    kinds: dict[str, Kind] = dict.fromkeys(OBJECTS, "object")
    kinds |= dict.fromkeys(STYLES, "style")
    kinds |= {WEAPONS: "unsafe"}
    benchmark("method_defaults", __doc__ or "", list(kinds.items()), SETTINGS, IMAGES, page)


if __name__ == "__main__":
    main()
