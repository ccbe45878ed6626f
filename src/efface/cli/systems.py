"""`efface systems`: the commands of five published systems, and efface's commands with the same effect.

The table is in `systems.yaml`; `docs/make_systems.py` makes a page of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from efface.cli.options import Json, UnusedDevice, UnusedModel, UnusedSeed
from efface.errors import BadInput

_TABLE = Path(__file__).with_name("systems.yaml")


@dataclass(frozen=True)
class SystemLine:
    """One command, option, file or step of a published system.

    Attributes:
        line: Its number, a letter for the system and a count.
        theirs: What the system's documentation shows.
        efface: The commands of efface that have this effect.
        differs: What differs and why.
        missing: What efface does not do yet.
    """

    line: str
    theirs: str
    efface: tuple[str, ...]
    differs: str = ""
    missing: str = ""


@dataclass(frozen=True)
class System:
    """A published system.

    Attributes:
        name: Its name on the command line.
        title: Its title.
        lines: Its lines, in the order of the documentation.
    """

    name: str
    title: str
    lines: tuple[SystemLine, ...]


@cache
def published_systems() -> tuple[System, ...]:
    """The systems of the table, in its order."""
    import yaml

    content: dict[str, Any] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return tuple(
        System(name, system["title"], tuple(_line(number, line) for number, line in system["lines"].items()))
        for name, system in content.items()
    )


def _line(number: str, content: dict[str, Any]) -> SystemLine:
    differs, missing = content.get("differs", ""), content.get("missing", "")
    return SystemLine(number, content["theirs"], tuple(content["efface"]), differs, missing)


def systems_command(
    system: Annotated[
        str | None, typer.Argument(metavar="[ume|sepce|ablation|esd|rece]", help="One of the systems (default: all).")
    ] = None,
    model: UnusedModel = "emoji",
    device: UnusedDevice = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """List the commands of five published systems, each with the command of efface that does the same.

    Example: efface systems esd
    """
    from efface.cli.output import Screen

    screen = Screen(json)
    systems = published_systems()
    names = [entry.name for entry in systems]
    if system is not None and system not in names:
        raise BadInput(f"Unknown system '{system}'; there is: {', '.join(names)}.")
    chosen = [entry for entry in systems if system in (None, entry.name)]
    for entry in chosen:
        screen.heading(f"{entry.name}  ({entry.title})")
        for line in entry.lines:
            screen.say()
            screen.say(f"{line.line}  {line.theirs}")
            for command in line.efface:
                screen.say(f"    {command}")
            if line.differs:
                screen.say(f"    Difference: {line.differs}")
            if line.missing:
                screen.say(f"    Not yet: {line.missing}")
        screen.say()
    screen.answer({"systems": [asdict(entry) for entry in chosen]})
