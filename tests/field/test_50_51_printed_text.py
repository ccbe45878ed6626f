"""Text of files, prompts and libraries is printed as one line of printable characters; only files are replaced."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import Efface
from efface.cli.output import Screen
from efface.cli.run import run
from efface.cli.text import one_line, printable
from efface.errors import BadFile
from efface.files import atomic
from efface.generation.folder import read_folder
from efface.work_folder import claim


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\r\nc", "a b c"),
        ("a\udc80b", "a\\udc80b"),
        ("a\u202eb\u2028c", "a\\u202eb c"),
        ("a\0b\x7f\x9b", "a\\x00b\\x7f\\x9b"),
        ("é 猫 🐈", "é 猫 🐈"),
    ],
)
def test_an_error_is_one_printable_line(text: str, expected: str) -> None:
    assert one_line(text) == expected
    assert one_line(text).isprintable()


@pytest.mark.parametrize("space", ["\u3000", "\xa0", "\u202f"])
def test_spaces_of_other_scripts_stay_in_names(space: str) -> None:
    assert (
        one_line(f"猫{space}犬.png is missing. ")
        == printable(f"猫{space}犬.png is missing.")
        == f"猫{space}犬.png is missing."
    )


def test_an_error_is_short() -> None:
    line = one_line("Begin " + "x" * 100_000 + " end.")
    assert len(line) <= 320
    assert line.startswith("Begin")
    assert line.endswith(" end.")
    assert len(printable("x" * 100_000, 300)) < 310


@pytest.mark.parametrize("argument", ["a\x1b[31m", "a\nb", "\x07" * 1000, "x" * 5000])
@pytest.mark.parametrize("command", [("erase", "cat", "--to"), ("inspect",), ("erase", "cat", "-s"), ("nothing",)])
def test_arguments_are_escaped_in_errors(command: tuple[str, ...], argument: str, capsys: Any) -> None:
    code = run([*command, argument, *(("-o", "nowhere/x.safetensors") if command[0] == "erase" else ())])
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert error.rstrip("\n").isprintable()
    assert len(error) < 400


def test_tables_and_lines_are_escaped(capsys: Any) -> None:
    screen = Screen(json=False)
    screen.say("a\x1b[31m\x07")
    screen.table(["a", "b"], [["\x1b[2J\nx", "y" * 100_000]])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[31m\\x07" in shown
    assert len(shown) < 10_000


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_is_utf_8_on_every_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding, errors="backslashreplace"))
    Screen(json=True).answer({"name": "é猫\udc80"})
    sys.stdout.flush()
    assert json.loads(buffer.getvalue().decode("utf-8")) == {"name": "é猫\udc80"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_standard_output_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with Path("/dev/full").open("w", encoding="ascii") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(["methods", "--json"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "Cannot write the output: No space left" in error


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("name", ["/dev/null", "pipe"])
def test_only_regular_files_are_replaced(name: str, force: bool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / name
    before = path.stat().st_mode
    with pytest.raises(BadFile, match="no regular file"), atomic(path, force):
        pass
    assert path.stat().st_mode == before


@pytest.mark.parametrize("name", ["a\udc80", "x" * 300, "a\0b"])
def test_names_that_cannot_be_recorded_are_rejected_first(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile), atomic(tmp_path / name):
        raise AssertionError("work was done")
    with pytest.raises(BadFile), claim(tmp_path / name, "attack", {}, "x", False):
        raise AssertionError("work was done")
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_not_utf_8(tmp_path: Path, capsys: Any) -> None:
    assert run(["erase", "cat", "--to", "dog", "-o", "a\udc80.safetensors"]) == 2
    assert "\\udc80" in capsys.readouterr().err
    (tmp_path / "a\udc80.png").write_bytes(b"x")
    with pytest.raises(BadFile, match="UTF-8"):
        read_folder(tmp_path)


def test_a_name_that_is_written_can_be_read(efface: Efface) -> None:
    name = "cat.SAFETENSORS"
    assert efface("erase", "cat", "-o", name).code == 0
    assert efface("generate", "a cat", "--eraser", name, "--steps", 1, "-o", "out").code == 0
    assert efface("inspect", name, "--json").json()["concepts"] == ["cat"]
    assert efface("erase", "dog", "--after", name, "-o", "both.safetensors").code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows passes arguments as Unicode")
@pytest.mark.parametrize(("argument", "expected"), [("café", "PYTHONUTF8=1"), (b"caf\xe9", "not valid UTF-8")])
def test_arguments_that_python_does_not_decode(argument: str | bytes, expected: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "efface", "erase", argument],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, b"", 1)
    assert expected in ended.stderr.decode("ascii")
