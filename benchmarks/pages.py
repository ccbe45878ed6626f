"""The result pages: their form, and the command that writes them again from the stored numbers.

    python benchmarks/pages.py            writes results/*.md again from results/*.json, without measuring anything
    python benchmarks/pages.py attach     one page

A page has a title, one sentence with the finding, a line with the date and settings of the measurement, and the tables.
The sentence is computed from the numbers, and docs/results.md and the README copy it from here
(`python docs/make_results.py`). Only a measurement writes the line with its date and settings: writing a page again
retains that line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import re
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NAMES = (
    "defaults",
    "method_defaults",
    "closed_form_defaults",
    "closed_form_quality",
    "uce_quality",
    "trained_quality",
    "ume_workflow",
    "carry_over",
    "text_streams",
    "flow_copies",
    "sepce_iterative",
    "debias",
    "robust",
    "attack_rates",
    "certificate",
    "closed_form",
    "erase_cold",
    "real_size",
    "esd_speed",
    "sd14_step",
    "generation",
    "evaluation",
    "workers",
    "attach",
    "kills",
    "fuzz",
    "client_loaders",
    "official_parity",
)


@dataclass(frozen=True)
class Page:
    """The part of a result page that follows from the numbers.

    Attributes:
        title: The heading.
        finding: What the numbers show, in one sentence.
        body: Notes and tables in Markdown.
    """

    title: str
    finding: str
    body: str


def write(name: str, content: Any, page: Page, *facts: str) -> None:
    """Write the page and the numbers of a measurement that ended today.

    Args:
        name: The name of the benchmark script without its ending.
        content: The numbers, as `json` writes them.
        page: The page.
        facts: The settings of the measurement.
    """
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text(name, page, "; ".join((date.today().isoformat(), *facts))), "utf-8")
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def text(name: str, page: Page, settings: str) -> str:
    """The page as Markdown."""
    return f"""# {page.title}

{page.finding}

Measured {settings}. Command: `python benchmarks/{name}.py`; its docstring defines the terms.

{page.body.strip()}
"""


def again(name: str) -> str:
    """A committed page, written again from the numbers beside it."""
    page = importlib.import_module(name).page(json.loads((RESULTS / f"{name}.json").read_text("utf-8")))
    measured = re.search(r"^Measured (.*)\. Command: ", (RESULTS / f"{name}.md").read_text("utf-8"), re.MULTILINE)
    assert measured, f"{name}.md lacks the line with the settings"
    return text(name, page, measured[1])


def machine() -> str:
    """The library and machine of this process, for the line with the settings."""
    import torch

    threads = torch.get_num_threads()
    return f"torch {torch.__version__}, {threads} thread{'s' * (threads > 1)}, {platform.machine()}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the result pages again from the stored numbers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; default: all")
    sys.path.insert(0, str(Path(__file__).parent))
    for name in parser.parse_args().names or NAMES:
        (RESULTS / f"{name}.md").write_text(again(name), encoding="utf-8")


if __name__ == "__main__":
    main()
