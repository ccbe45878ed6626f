"""The package `efface`: its names, and the cost of importing it."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import efface

VERBS = (
    "erase",
    "generate",
    "judge",
    "train_judge",
    "evaluate",
    "attack",
    "compare",
    "compose",
    "export",
    "import_eraser",
    "inspect",
    "fetch",
)
HEAVY = ("torch", "torch._dynamo", "diffusers", "transformers", "numpy", "PIL", "pydantic", "yaml", "safetensors")


def imported_by(statement: str) -> set[str]:
    """The heavy libraries that a new interpreter has imported after a statement."""
    script = f"import sys\n{statement}\nprint(*(set({HEAVY!r}) & sys.modules.keys()), file=sys.stderr)"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ended.stderr.split())


def test_importing_efface_imports_no_library() -> None:
    assert imported_by("import efface") == set()
    assert "torch" in imported_by("import efface; efface.erase")  # the check sees what is imported


def test_erasing_imports_neither_the_compiler_nor_diffusers_nor_transformers(tmp_path: Path) -> None:
    command = ["erase", "cat", "-o", str(tmp_path / "cat.safetensors")]
    statement = f"from efface.cli.run import run; assert run({command!r}) == 0"
    assert imported_by(statement) & {"torch", "torch._dynamo", "diffusers", "transformers"} == {"torch"}


def test_help_imports_no_heavy_library() -> None:
    statement = "from efface.cli.run import run; assert run(['--help']) == 0"
    assert imported_by(statement) == set()


def test_modules_run_the_command() -> None:
    for module in ("efface", "efface.cli"):
        ended = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
        assert ended.stdout == f"efface {efface.__version__}\n"


@pytest.mark.parametrize("name", sorted(set(efface.__all__) - {"__version__"}))
def test_every_name_has_documentation(name: str) -> None:
    value = getattr(efface, name)
    assert not isinstance(value, ModuleType)
    assert inspect.getdoc(value)
    assert name in dir(efface)


@pytest.mark.parametrize("name", VERBS)
def test_verbs_are_typed_functions_with_an_example(name: str) -> None:
    verb = getattr(efface, name)
    assert inspect.isfunction(verb)
    assert "Example:" in (inspect.getdoc(verb) or "")
    signature = inspect.signature(verb)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_a_function_whatever_was_imported_before(name: str) -> None:
    for module in ("generation", "judges", "eraser", "request", "api"):
        importlib.import_module(f"efface.{module}")
    importlib.import_module(f"efface.api.{name}")
    assert inspect.isfunction(getattr(efface, name))


def test_unknown_names_are_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        efface.magic  # noqa: B018  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
