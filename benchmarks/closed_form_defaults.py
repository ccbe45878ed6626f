"""Forget and retain rates of every closed form without any option on the embedded model.

    python benchmarks/closed_form_defaults.py            all objects and styles, 40 images of each rate
    python benchmarks/closed_form_defaults.py --quick    two concepts and few images; writes no result

Each concept is erased alone as by `efface erase NAME --method METHOD`, with the guides and settings that the model
recommends; uce is in defaults.py, rece in method_defaults.py. The `err` protocol with the embedded judge evaluates each
eraser on the same prompts and seeds. Writes results/closed_form_defaults.md and .json.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from defaults import IMAGES, kinds_of_all
from pages import Page
from quality import Setting, benchmark, details, mean, of_setting, overview

METHODS = ("speed", "cure", "certified", "oce", "robust", "adavd")
SETTINGS = {method: Setting(method, guided=False) for method in METHODS}


def finding(content: Any, method: str) -> str:
    """The rates of one method, in one clause."""
    rows = of_setting(content, method)
    return f"`{method}` {mean(rows, 'metrics', 'forget'):.1%} and {100 * mean(rows, 'change', 'retain'):+.1f}"


def page(content: Any) -> Page:
    """The result page of the numbers in closed_form_defaults.json."""
    parts = ", ".join(finding(content, method) for method in METHODS)
    text = (
        f"Forget rate over {len(content)} concepts of `efface erase NAME --method METHOD`, and change of the retain "
        f"rate in points: {parts}."
    )
    body = f"""
Each concept is erased alone. Means over concepts, with 95% intervals from a bootstrap over concepts; in the tables of
concepts, intervals are clustered by prompt. `base` is the unedited model.

{overview(content)}

{details(content, SETTINGS)}
"""
    return Page("Defaults of the closed forms", text, body)


if __name__ == "__main__":
    benchmark("closed_form_defaults", __doc__ or "", list(kinds_of_all().items()), SETTINGS, IMAGES, page)
