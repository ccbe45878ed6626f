"""Fixtures that run command lines of efface in this process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from efface.cli.run import run


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON object on one line."""
        assert self.out.count("\n") == 1, self.out
        content = json.loads(self.out)
        assert isinstance(content, dict)
        return content


Efface = Callable[..., Outcome]


@pytest.fixture
def efface(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Efface:
    """Runs one command line in an empty folder, with a cache of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))

    def command(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return command


@pytest.fixture
def refused(efface: Efface) -> Callable[..., str]:
    """Runs a command that must be refused: exit 2, one line, no new file; gives the line."""

    def command(*arguments: object) -> str:
        before = sorted(Path().rglob("*"))
        ended = efface(*arguments)
        assert ended.code == 2, ended
        assert ended.out == ""
        assert ended.err.count("\n") == 1, ended.err
        assert "Traceback" not in ended.err
        assert sorted(Path().rglob("*")) == before
        return ended.err

    return command
