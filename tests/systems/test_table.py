"""The table of published systems: every line has a test of its effect, and every command exists."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from efface.cli.systems import SystemLine, published_systems

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SYSTEMS = {system.name: system for system in published_systems()}
LINES = [line for system in SYSTEMS.values() for line in system.lines]


def lines_with_a_test(system: str) -> set[str]:
    """The lines that the tests of a system name: `test_u4_...` is a test of U4."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(HERE.glob(f"test_{system}*.py")))
    return {name.upper() for name in re.findall(r"^def test_([a-z]\d+)_", text, re.MULTILINE)}


def test_the_table_has_the_lines_of_five_systems() -> None:
    numbers = {name: [line.line for line in system.lines] for name, system in SYSTEMS.items()}
    assert numbers == {
        "ume": [f"U{i}" for i in range(1, 13)],
        "sepce": [f"S{i}" for i in range(1, 10)],
        "ablation": [f"A{i}" for i in range(1, 17)],
        "esd": [f"E{i}" for i in range(1, 11)],
        "rece": [f"R{i}" for i in range(1, 11)],
    }


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_line_has_a_test(name: str) -> None:
    lines = {line.line for line in SYSTEMS[name].lines}
    assert lines_with_a_test(name) == lines


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.line)
def test_the_commands_of_a_line_exist_with_their_options(line: SystemLine) -> None:
    import typer.main

    from efface.cli.app import app

    group: Any = typer.main.get_command(app)
    assert line.efface
    for text in line.efface:
        words = shlex.split(re.sub("^accelerate launch .* -m ", "", text))
        assert words[0] == "efface"
        name = " ".join(words[1:3])
        command = group.commands[name if name in group.commands else words[1]]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= options


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.line)
def test_a_difference_is_short(line: SystemLine) -> None:
    assert len(line.differs) <= 3 * 120
    assert "|" not in "".join([line.theirs, *line.efface, line.differs, line.missing])  # the page is a table


def test_the_commands_of_sepce_run_in_their_order() -> None:
    written: set[str] = set()
    for line in SYSTEMS["sepce"].lines:
        for text in line.efface:
            words = shlex.split(text)
            outputs = {words[i + 1] for i, word in enumerate(words) if word == "-o" and words[i + 1] != "DIR"}
            assert not outputs & written, f"{line.line} writes {outputs} again"
            inputs = {word for word in words if word.endswith(".safetensors")} - outputs
            assert inputs <= written, f"{line.line} reads {inputs - written}, which no earlier command writes"
            written |= outputs


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_systems", ROOT / "docs" / "make_systems.py")
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run python docs/make_systems.py"


def test_the_command_prints_one_system_or_all(efface: Any, refused: Any) -> None:
    ended = efface("systems", "esd")
    assert "train.py --config_path train_config.yaml" in ended.out
    assert "efface erase --config train_config.yaml" in ended.out
    assert "--caption_target" not in ended.out
    assert "--caption_target" in efface("systems").out
    (system,) = efface("systems", "rece", "--json").json()["systems"]
    assert [line["line"] for line in system["lines"]] == [f"R{i}" for i in range(1, 11)]
    assert "there is: ume, sepce, ablation, esd, rece" in refused("systems", "photoshop")
