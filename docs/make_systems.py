"""docs/systems.md, made from the table that `efface systems` prints.

python docs/make_systems.py
"""

from __future__ import annotations

from pathlib import Path

from efface.cli.systems import System, SystemLine, published_systems

PAGE = Path(__file__).resolve().parent / "systems.md"

INTRODUCTION = """# Coming from another tool

efface does the work of five published systems. For each command, option, file and step of their documentation, this
page has the command of efface with the same effect, what differs and why. `efface systems` prints the same table, and
`efface systems esd` one system. This page is made by `python docs/make_systems.py`.

A row with "Not yet" works in part: its commands do what they say, and the note names the rest."""


def cell(line: SystemLine) -> str:
    """What differs, and what is missing."""
    missing = f"**Not yet:** {line.missing}" if line.missing else ""
    return "<br>".join(filter(None, (line.differs, missing)))


def section(system: System) -> str:
    """The table of one system."""
    rows = [
        f"| {line.line} | {line.theirs} | {'<br>'.join(f'`{command}`' for command in line.efface)} | {cell(line)} |"
        for line in system.lines
    ]
    return "\n".join(
        [f"## {system.title}", "", "| | documentation | efface | differences |", "|---|---|---|---|", *rows]
    )


def page() -> str:
    """The page."""
    return "\n\n".join([INTRODUCTION, *map(section, published_systems())]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
