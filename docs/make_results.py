"""docs/results.md and the README's table of results, made from the result pages in benchmarks/results.

    python docs/make_results.py

The page has a section for each result: the finding, the line with the date and settings, the first table and a link to
the full page. MkDocs also loads this module, as a hook, which adds the full pages to the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
WHOLE, FIRST = 13, 8  # a table with more rows than WHOLE is cut to its FIRST rows

GROUPS = {
    "What methods forget and retain": (
        "defaults",
        "method_defaults",
        "closed_form_defaults",
        "closed_form_quality",
        "uce_quality",
        "trained_quality",
        "ume_workflow",
        "sepce_iterative",
        "debias",
    ),
    "Two models": ("carry_over", "text_streams", "flow_copies"),
    "Attacks": ("robust", "attack_rates", "certificate"),
    "Files": ("client_loaders",),
    "Published scripts": ("official_parity",),
    "Speed and memory": (
        "closed_form",
        "erase_cold",
        "real_size",
        "attach",
        "esd_speed",
        "sd14_step",
        "generation",
        "workers",
        "evaluation",
    ),
    "Interruptions and malformed files": ("kills", "fuzz"),
}
#: The results in the README.
SELECTED = (
    "defaults",
    "closed_form_quality",
    "trained_quality",
    "carry_over",
    "robust",
    "sepce_iterative",
    "closed_form",
    "erase_cold",
    "generation",
)
START, END = "<!-- results: made by docs/make_results.py -->", "<!-- end of results -->"

INTRODUCTION = """# Results

This page is made from the files in `benchmarks/results` by `python docs/make_results.py`. Each result comes from one
script in `benchmarks/`, which also defines the terms of its table, and each finding is computed from the numbers.

All forget and retain rates are measured on `emoji`, the [embedded model](embedded.md). They transfer to Stable
Diffusion as far as the equations do. **No number here comes from Stable Diffusion's own weights**: where a result names
Stable Diffusion's shapes or size, the weights are random. [What the numbers mean](evaluation.md)
explains the rates."""


def parsed(name: str) -> dict[str, str]:
    """The parts of a result page: title, finding, settings and first table."""
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    title, finding, settings = text.split("\n\n")[:3]
    first = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert first, f"{name}.md has no table"
    return {"title": title.removeprefix("# "), "finding": finding, "settings": settings, "table": first[0].strip()}


def section(name: str) -> str:
    """The section of one result."""
    result = parsed(name)
    lines = result["table"].splitlines()
    rest = len(lines) - 2 - FIRST if len(lines) - 2 > WHOLE else 0
    table = "\n".join(lines[: 2 + FIRST] if rest else lines)
    more = f" has {rest} more rows" if rest else ""
    return f"""### {result["title"]}

{result["finding"]}

{table}

{result["settings"]} [The full page](../benchmarks/results/{name}.md){more}."""


def page() -> str:
    """docs/results.md."""
    parts = [INTRODUCTION]
    for title, names in GROUPS.items():
        parts += [f"## {title}", *map(section, names)]
    return "\n\n".join(parts) + "\n"


def readme(text: str) -> str:
    """The README with the present findings between its two markers."""
    rows = [(parsed(name), name) for name in SELECTED]
    lines = [f"| [{row['title']}](benchmarks/results/{name}.md) | {row['finding']} |" for row, name in rows]
    table = "\n".join(["| measured | finding |", "|---|---|", *lines])
    before, after = text.split(START)[0], text.split(END)[1]
    return f"{before}{START}\n{table}\n{END}{after}"


def on_files(files: Any, config: Any) -> Any:
    """Add the result pages and their pictures to the site."""
    from mkdocs.structure.files import File

    for path in sorted(path for suffix in ("md", "svg", "png") for path in RESULTS.glob(f"*.{suffix}")):
        files.append(File.generated(config, f"benchmarks/results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to result pages that work in the repository, as links that work on the site."""
    return markdown.replace("(../benchmarks/results/", "(benchmarks/results/")


def main() -> None:
    """Write docs/results.md and the README's table."""
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
