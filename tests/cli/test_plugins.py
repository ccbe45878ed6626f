"""The example package of plug-ins: installed by pip, found by its entry points, used from the command line."""

import json
import os
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from efface import Eraser
from efface.apply.guard import GUARDS
from efface.attacks import ATTACKS
from efface.formats import EXPORTERS
from efface.judges import JUDGES
from efface.methods import METHODS
from efface.metrics import METRICS
from efface.protocols import PROTOCOLS
from efface.report import schema

TESTS = Path(__file__).parents[1]
EXAMPLE = TESTS.parent / "examples" / "plugin"
SUITES = ("methods", "metrics", "protocols", "attacks", "formats")
FEW = ("--steps", 2, "--sampler", "ddim", "--seed", 5)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which pip has installed the package, without a network."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    alone = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    command = [sys.executable, "-m", "pip", "install", *alone, "--target", folder / "site", source]
    subprocess.run(command, check=True)
    return folder / "site"


@pytest.fixture
def _installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package in this process, whose registries look for entry points anew."""
    monkeypatch.syspath_prepend(site)
    for registry in (METHODS, JUDGES, METRICS, PROTOCOLS, ATTACKS, EXPORTERS, GUARDS):
        for name in ("_announced", "_entries"):
            monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
        monkeypatch.setattr(registry, "_searched", False)


def test_each_file_has_fewer_than_40_lines() -> None:
    files = list(EXAMPLE.rglob("*.py"))
    assert {file.stem for file in files} >= {"method", "judge", "metric", "protocol", "attack", "exporter"}
    assert all(len(file.read_text().splitlines()) < 40 for file in files)


@pytest.fixture
def red(efface, _installed: None, tiny_sd: Path) -> Path:
    """An eraser made by the plug-in method."""
    path = Path("red.safetensors")
    assert efface("erase", "red", "cat", "--method", "project_out", "--model", tiny_sd, "-o", path).code == 0
    return path


@pytest.mark.usefixtures("_installed")
def test_they_are_listed_with_the_built_in_ones(efface) -> None:
    for command, name in (
        ("methods", "project_out"),
        ("judges", "redness"),
        ("protocols", "colours"),
        ("attacks", "repeated_name"),
    ):
        listed = efface(command)
        assert listed.code == 0
        assert name in listed.out


def test_the_method_erases_and_restores(efface, red: Path) -> None:
    answer = efface("inspect", red, "--json").json()
    assert (answer["method"], answer["concepts"]) == ("project_out", ["red", "cat"])
    assert efface("compose", red, "--without", "cat", "-o", "rest.safetensors").code == 0
    assert Eraser.load("rest.safetensors").concepts == ("red",)


def test_the_judge_answers(efface, red: Path, tiny_sd: Path) -> None:
    made = efface("generate", "a red house", "-n", 3, "--eraser", red, "--model", tiny_sd, *FEW, "-o", "images")
    assert made.code == 0
    answer = efface("judge", "images", "--judge", "redness", "--question", "red", "--json").json()
    assert answer["judge"]["name"] == "redness"
    assert sum(answer["questions"]["red"][kind] for kind in ("yes", "no")) == 3
    refused = efface("judge", "images", "--judge", "redness", "--question", "a cat")
    assert refused.code == 2


def test_the_protocol_and_its_metric_are_in_the_report(efface, red: Path, tiny_sd: Path) -> None:
    assert efface("compose", red, "--without", "cat", "-o", "one.safetensors").code == 0
    how = ("--protocol", "colours", "--judge", "redness", "--model", tiny_sd, "-n", 4, *FEW, "-o", "out")
    ended = efface("evaluate", "one.safetensors", *how)
    assert ended.code == 0, ended.err
    report = json.loads(Path("out/report.json").read_text())
    Draft202012Validator(schema()).validate(report)
    numbers = report["erasers"]["one"]
    assert numbers["metrics"]["forget"]["n"] == 4
    shift = numbers["metrics"]["colour_shift"]
    assert shift["extractor"] == "mean colour"
    assert shift["low"] <= shift["value"] <= shift["high"]
    page = unescape(Path("out/report.html").read_text())
    for text in ("colour_shift", PROTOCOLS.get("colours").metrics[1].meaning, "colours"):
        assert text in page


def test_the_attack_searches(efface, red: Path, tiny_sd: Path) -> None:
    how = ("--attack", "repeated_name", "--concept", "red", "--judge", "redness", "-s", "times=3", "--model", tiny_sd)
    ended = efface("attack", red, *how, "-n", 2, *FEW, "-o", "attacked", "--json")
    assert ended.code == 0, ended.err
    answer = ended.json()
    assert (answer["attack"], answer["settings"]) == ("repeated_name", {"times": 3})
    assert (answer["erasers"]["red"]["n"], answer["erasers"]["red"]["errors"]) == (2, 0)
    searches = list(Path("attacked/searches").rglob("metadata.jsonl"))
    assert len(searches) == 2
    for search in searches:
        prompts = [json.loads(line)["prompt"] for line in search.read_text().splitlines()]
        assert sorted(prompt.split(" a ")[0] for prompt in prompts) == ["red", "red red", "red red red"]


def test_the_exporter_writes(efface, red: Path, tiny_sd: Path) -> None:
    answer = efface("export", red, "--format", "npz", "--model", tiny_sd, "-o", "red.npz", "--json").json()
    assert answer["format"] == "npz"
    (edit,) = Eraser.load(red).edits
    with np.load("red.npz") as arrays:
        assert np.array_equal(arrays["left.0"], edit.tensors()["left"].numpy())
        assert json.loads(arrays["provenance"].item())["eraser"] == Eraser.load(red).hash


@pytest.mark.slow
def test_another_process_finds_them_and_the_contract_suites_hold(site: Path) -> None:
    """The suites run for each installed plug-in."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), os.environ.get("PYTHONPATH", "")))}
    suites = [str(TESTS / kind / "test_contract.py") for kind in SUITES]
    chosen = "project_out or mean_shift or repeated_name or npz or [colours]"
    command = [sys.executable, "-m", "pytest", *suites, "-k", chosen, "-v", "-p", "no:xdist", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    for name in SUITES:
        assert f"tests/{name}/test_contract.py" in ended.stdout
