"""The lists import nothing heavy, and explain each setting."""

import json
import os
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "make_catalogue.py"))
FILE, catalogue = TOOL["FILE"], TOOL["catalogue"]

CHECK = """
import sys
from efface.cli.run import run
code = run(sys.argv[1:])
heavy = {"torch", "diffusers", "transformers", "scipy"} & sys.modules.keys()
sys.exit(code or (f"imported: {heavy}" if heavy else 0))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CHECK, *arguments], capture_output=True, text=True, env=os.environ)


LISTS = ["methods", "methods uce", "models", "judges", "attacks", "protocols err", "methods esd --json", "--help"]


@pytest.mark.parametrize("arguments", LISTS)
def test_a_list_imports_no_torch(arguments):
    ended = run(*arguments.split())
    assert ended.returncode == 0, ended.stderr


def test_a_list_takes_little_time():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run("methods")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = sum(getattr(after, field) - getattr(before, field) for field in ("ru_utime", "ru_stime"))
    assert used < 1.2, "CPU seconds, twice the aim, since other work shares the processor"


def test_the_catalogue_is_up_to_date():
    assert json.loads(FILE.read_text(encoding="utf-8")) == json.loads(json.dumps(catalogue())), (
        "run python tools/make_catalogue.py"
    )


def test_every_setting_is_explained():
    for kind, key in (("methods", "defaults"), ("attacks", "settings"), ("protocols", "defaults")):
        for row in catalogue()[kind]:
            assert row["explained"].keys() == row[key].keys(), row["name"]


@pytest.mark.parametrize(("kind", "name", "setting"), [("methods", "uce", "lamb"), ("attacks", "unlearndiff", "k")])
def test_one_entry_explains_each_setting_in_a_line(kind, name, setting):
    lines = [line for line in run(kind, name).stdout.splitlines() if line.startswith(f"  -s {setting}=")]
    assert len(lines) == 1
    assert len(lines[0]) > 30


def test_an_unknown_entry_is_named():
    ended = run("methods", "uze")
    assert ended.returncode == 2
    assert "Unknown method 'uze'; there is: ablate" in ended.stderr
