import subprocess
import sys
from pathlib import Path

import pytest
import typer

from efface.cli import run as runner
from efface.errors import BadFile
from efface.hub import UnreachableError


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (BadFile("x.safetensors is\n  damaged."), 2, "efface: x.safetensors is damaged.\n"),
        (RuntimeError("out of memory\nsorry"), 1, "efface: RuntimeError: out of memory sorry"),
        (UnreachableError("The hub does not answer."), 1, "efface: The hub does not answer.\n"),
        (KeyboardInterrupt(), 130, "efface: interrupted"),
        (typer.Exit(1), 1, ""),
    ],
)
def test_every_way_to_end_has_its_code_and_at_most_one_line(monkeypatch, capsys, error, code, printed):
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(runner, "app", app)
    monkeypatch.delenv("EFFACE_DEBUG", raising=False)
    assert runner.run([]) == code
    err = capsys.readouterr().err
    assert err.startswith(printed)
    assert err.count("\n") == bool(printed)
    assert "Traceback" not in err


def test_the_traceback_is_there_for_those_who_ask(monkeypatch, capsys):
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(runner, "app", app)
    monkeypatch.setenv("EFFACE_DEBUG", "1")
    assert runner.run([]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_starts_without_the_heavy_libraries():
    script = (
        "import sys; from efface.cli.run import run; code = run(['--help']);"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & set(sys.modules);"
        "print(heavy, file=sys.stderr); sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert ended.stderr == "set()\n"
    assert all(f" {name} " in ended.stdout for name in ("demo", "erase", "generate", "judge", "evaluate", "inspect"))


def test_no_library_prints_anything_while_images_are_generated(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "efface", "generate", "a cat", "--steps", "1", "-o", str(tmp_path / "images")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line for line in ended.stderr.splitlines() if not line.startswith("images: ")] == []
