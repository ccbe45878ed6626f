"""Progress in pipes is printed as lines, and an interruption says how to continue."""

import pytest

from efface.cli import output, run
from efface.methods import METHODS


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize(("seconds", "shown"), [(6, [0, 1, 2]), (2.6, [1]), (0.5, [])])
def test_long_work_prints_lines_into_a_pipe(json, seconds, shown, monkeypatch, capsys):
    clock = iter(seconds * k for k in range(99))
    monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
    with output.Screen(json).progress() as progress:
        for done in range(3):
            progress("images of cat", done, 8, "loss 0.1")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [f"images of cat: {done} of 8 loss 0.1" for done in shown]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, run.typer.Abort])
def test_an_interrupted_command_says_how_to_continue(interruption, monkeypatch, capsys):
    def app(**_: object) -> None:
        raise interruption

    monkeypatch.setattr(run, "app", app)
    continues = "the same command with the same output continues the work"
    resumed = ("generate", "evaluate", "erase --method esd", "erase --method=ablate", "erase --each", "judge train")
    for command in resumed:
        assert run.run(command.split()) == 130
        assert continues in capsys.readouterr().err
    for command in ("erase cat", "judge images", "export", "import", "compose", "compare", "methods"):
        assert run.run(command.split()) == 130
        assert capsys.readouterr().err == "efface: interrupted\n"


@pytest.mark.parametrize("method", [name for name in METHODS.names() if METHODS.get(name).trained])
def test_every_method_that_trains_continues(method, monkeypatch, capsys):
    def app(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "app", app)
    assert run.run(["erase", "cat", "--method", method]) == 130
    assert "continues the work" in capsys.readouterr().err
