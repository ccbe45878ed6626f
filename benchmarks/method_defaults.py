"""Forget and retain rates of rece and nullspace without any option on the embedded model, and as published.

    python benchmarks/method_defaults.py                ten objects, five styles, the weapon theme; 64 images of a rate
    python benchmarks/method_defaults.py --only rece    measures one setting, and writes no result
    python benchmarks/method_defaults.py --quick        two concepts and few images; writes no result

Each concept is erased alone, the four weapons together, as by `efface erase NAME --method METHOD`, with the guides and
settings that the model recommends, and with `-s preset=published`. The `err` protocol with the embedded judge evaluates
both on the same prompts and seeds. Writes results/method_defaults.md and .json.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from closed_form_quality import STYLES
from efface.request.record import Kind
from pages import Page
from quality import OBJECTS, WEAPONS, Setting, benchmark, details, mean, of_setting, overview

IMAGES = 64
SETTINGS = {
    f"{method}{suffix}": Setting(method, dict(options), guided=False)
    for method in ("rece", "nullspace")
    for suffix, options in (("", {}), (" published", {"preset": "published"}))
}


def page(content: Any) -> Page:
    """The result page of the numbers in method_defaults.json."""
    findings: list[str] = []
    for method in ("rece", "nullspace"):
        rows, published = of_setting(content, method), of_setting(content, f"{method} published")
        enough = [
            name
            for name, settings in content.items()
            if settings[method]["metrics"]["forget"]["value"] >= 0.9
            and settings[method]["change"]["retain"]["value"] >= -0.05
        ]
        findings.append(
            f"`efface erase NAME --method {method}` forgets {mean(rows, 'metrics', 'forget'):.1%} (indirect prompts "
            f"{mean(rows, 'metrics', 'indirect'):.1%}) and changes the retain rate by "
            f"{100 * mean(rows, 'change', 'retain'):+.1f} points; {len(enough)} of {len(content)} concepts forget "
            f"90% or more and lose at most 5 points; the published settings forget "
            f"{mean(published, 'metrics', 'forget'):.1%} at {100 * mean(published, 'change', 'retain'):+.1f} points."
        )
    body = f"""
Means over concepts, with 95% intervals from a bootstrap over concepts; in the tables of concepts, intervals are
clustered by prompt. `base` is the unedited model.

{overview(content)}

{details(content, SETTINGS)}
"""
    return Page("Defaults of rece and nullspace", " ".join(findings), body)


def main() -> None:
    kinds: dict[str, Kind] = dict.fromkeys(OBJECTS, "object")
    kinds |= dict.fromkeys(STYLES, "style")
    kinds |= {WEAPONS: "unsafe"}
    benchmark("method_defaults", __doc__ or "", list(kinds.items()), SETTINGS, IMAGES, page)


if __name__ == "__main__":
    main()
