"""A table that is wider than the terminal shows every name in full."""

import re

import pytest

from efface.cli.output import Screen

NAMES = [f"checkpoints-of-a-long-training-with-many-settings-lamb-0.{k}" for k in range(3)]


@pytest.mark.parametrize("width", ["60", "80", "200"])
@pytest.mark.parametrize(
    "names", [NAMES, [name.replace("-", "_") for name in NAMES], ["é" * 70 + str(k) for k in range(3)]]
)
def test_long_names_are_never_cut(width, names, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", width)
    rows = [[name, "98.0 [93.0, 99.4]", "97.0 [91.5, 99.0]", "-1.0 [-4.0, +2.0]", "100"] for name in names]
    Screen(False).table(("rate, %", "before", "after", "change", "images"), rows)
    printed = capsys.readouterr().out
    assert "…" not in printed
    first = re.sub(
        r"\s", "", "".join(re.split(r"  |(?<=\S) (?=\S*\[)", line + "  ")[0] for line in printed.splitlines())
    )
    assert all(name in first for name in names)
