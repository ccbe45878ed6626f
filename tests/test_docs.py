"""The documentation agrees with the code and with the measurements."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
ENTRY_POINTS = {"efface.exporters", "efface.extractors", "efface.guards"}  # groups that are not also packages
RESULTS = sorted(path.stem for path in (ROOT / "benchmarks" / "results").glob("*.md"))


def commands() -> list[str]:
    """The commands of efface in the code blocks of the pages."""
    lines: list[str] = []
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            lines += re.findall(r"^efface .*$", block.replace("\\\n", " "), re.MULTILINE)
    return list(dict.fromkeys(lines))


def make_results() -> Any:
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", re.findall(r"^::: (\S+)$", API, flags=re.MULTILINE))
def test_the_api_page_names_existing_objects(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        assert resolve_name(f"{module}:{attribute}").__module__ == module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_existing_objects_and_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\befface(?:\.\w+)+", re.sub(r"^::: .*$", "", text, flags=re.MULTILINE)):
        if name != "efface.json" and name not in ENTRY_POINTS:  # the provenance that an exported folder has
            resolve_name(name)
    for path, name in re.findall(r"`(src/[\w/.]+\.py)`: `(\w+)`", text):
        assert re.search(rf"^(def|class) {name}\b", (ROOT / path).read_text("utf-8"), re.MULTILINE), f"{path}: {name}"
    for path in re.findall(r"(?:src/efface|benchmarks|docs|tests|zoo|examples)(?:/[\w.-]+)+", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_architecture_lists_the_packages_in_import_order() -> None:
    rows = re.findall(r"^\| `efface\.(\w+)` \|", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.MULTILINE)
    order = re.search(r"^ORDER = \((.*?)^\)", (ROOT / "tests" / "test_imports.py").read_text("utf-8"), re.M | re.S)
    assert order
    assert rows == [name for name in re.findall(r'"(\w+)"', order[1]) if not name.startswith("__")]


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_pages_exist_with_their_options(line: str) -> None:
    import typer.main

    from efface.cli.app import app

    group: Any = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    name = " ".join(words[:2])
    command = group.commands[name if name in group.commands else words[0]]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= {*options, "--help", "-h"}


def test_the_results_page_and_the_readme_are_up_to_date() -> None:
    module = make_results()
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run python docs/make_results.py"
    readme = module.README.read_text(encoding="utf-8")
    assert readme == module.readme(readme), "run python docs/make_results.py"


def test_the_results_page_has_every_result() -> None:
    assert sorted(name for names in make_results().GROUPS.values() for name in names) == RESULTS


@pytest.mark.parametrize("name", RESULTS)
def test_result_pages_follow_from_their_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = ROOT / "benchmarks" / "results" / f"{name}.md"
    assert page.read_text(encoding="utf-8") == importlib.import_module("pages").again(name)
