"""Forget rate and retain rate of `uce` on the embedded model.

    python benchmarks/uce_quality.py            ten objects and three styles, one at a time, three settings each
    python benchmarks/uce_quality.py --quick    one of each and few images, in a temporary folder; writes no result

Each concept is erased alone, towards the guide of the catalogue: with the published defaults of both variants, and with
`window` while all other names are preserved. The `err` protocol with the embedded judge evaluates each eraser, on
prompts over all styles, objects and templates. Writes results/uce_quality.md and .json.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from efface.request.record import Kind
from pages import Page
from quality import OBJECTS, Setting, benchmark, details, mean, of_setting, overview

STYLES = ("line art", "pixel art", "blueprint")
IMAGES = 100
SETTINGS = {
    "published (token)": Setting(),
    "published (window)": Setting(options={"variant": "window"}),
    "window, others preserved": Setting(options={"variant": "window", "lamb": 0.1}, preserve=True),
}


def page(content: Any) -> Page:
    """The result page of the numbers in uce_quality.json."""
    parts: list[str] = []
    for variant in ("token", "window"):
        rows = of_setting(content, f"published ({variant})")
        lost = -100 * mean(rows, "change", "retain")
        parts.append(f"`{variant}` forgets {mean(rows, 'metrics', 'forget'):.1%} and loses {lost:.1f} points")
    finding = (
        f"Over {len(content)} concepts with the published defaults, UCE's variant {parts[0]} of retain rate, and its "
        f"2023 variant {parts[1]}."
    )
    body = f"""
Each concept is erased alone. Means over concepts, with 95% intervals from a bootstrap over concepts; in the tables of
concepts, intervals are clustered by prompt. `base` is the unedited model. The last columns count the images of prompts
for the concept by what they show, and give the judge's recall and false-positive rate on the unedited model's images.
The window also edits the end and padding tokens, which differ little between prompts.

{overview(content)}

{details(content, SETTINGS)}
"""
    return Page("UCE: forget and retain rates", finding, body)


def main() -> None:
    kinds: dict[str, Kind] = {**dict.fromkeys(OBJECTS, "object"), **dict.fromkeys(STYLES, "style")}
    benchmark("uce_quality", __doc__ or "", list(kinds.items()), SETTINGS, IMAGES, page)


if __name__ == "__main__":
    main()
