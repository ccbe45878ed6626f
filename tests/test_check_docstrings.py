"""The checker of docstrings, on a package of two modules that break one rule after the other."""

import runpy
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).parent.parent / "tools" / "check_docstrings.py"))
HEADER = '"""A module."""\n\nfrom __future__ import annotations\n\n'


def problems(folder: Path, source: str, other: str = HEADER) -> list[str]:
    (folder / "module.py").write_text(HEADER + source, encoding="utf-8")
    (folder / "other.py").write_text(other, encoding="utf-8")
    return [problem.text for problem in TOOL["Project"](folder).check(folder / "module.py")]


GOOD = '''
class BadInput(ValueError):
    """An error."""

class BadFile(BadInput):
    """An error."""

class Judge(Protocol):
    """A contract."""

    def knows(self, concept: str) -> bool:
        """Whether it knows it."""
        ...

@dataclass(frozen=True)
class Pair:
    """Two tensors and a name.

    Attributes:
        left, right: Of shape (n, d).
        name: The name.
    """

    left: Tensor
    right: Tensor
    name: str

    def knows(self, concept: str) -> bool:
        return True

def total(x: Tensor, weights: Sequence[Tensor], state: dict[str, Tensor], _cache: int = 0) -> Tensor:
    """Add tensors.

    Args:
        x: Of shape (n, 3, H/8, W/8).
        weights: Each of shape (n, d + 1).
        state: `x` by name.

    Raises:
        BadInput: It cannot be done.
    """
    if not weights:
        raise BadFile("It has no weights.")
    return {"kept": x, "own": "kept"}

def _private(a, b, c, d):
    raise BadFile("No documentation is needed.")
'''


def test_a_good_module_has_no_problems(tmp_path):
    assert problems(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("replaced", "by", "problem"),
    [
        ('    """A contract."""\n', "", "Class 'Judge' has no docstring."),
        ('        """Whether it knows it."""\n', "", "'Judge.knows' has no docstring."),
        ("        name: The name.\n", "", "'Pair': 'Attributes:' does not name name."),
        (
            "Of shape (n, d)",
            "Tensors",
            "Class 'Pair' holds tensors, but its docstring mentions no shape",
        ),
        ("        state: `x` by name.\n", "", "'total': 'Args:' does not name state."),
        (
            "    Raises:\n",
            "    Errors:\n",
            "'total' raises BadFile, but its docstring has no such entry",
        ),
        ("BadInput: It", "BadInput: it", "'total': 'BadInput' under 'Raises:' begins in lower case."),
        ("It has no weights.", "It kept no weights.", "Write another word than 'kept'."),
        ("Add tensors.", "Give back the sum.", "Write another word than 'Give back'."),
        ("_cache", "kept_cache", "The name 'kept_cache' does not say what the value is."),
        ("class Judge", "class total", "'total' is also defined in other.py."),
    ],
)
def test_each_rule(tmp_path, replaced, by, problem):
    assert replaced in GOOD
    other = HEADER + 'def total() -> None:\n    """Do nothing."""\n'
    source = GOOD.replace(replaced, by)
    texts = problems(tmp_path, source, other if "other.py" in problem else HEADER)
    assert any(text.startswith(problem) for text in texts), texts


def test_annotations_without_the_future_import(tmp_path):
    (tmp_path / "module.py").write_text('"""A module."""\n\nx: int = 1\n', encoding="utf-8")
    (text,) = [problem.text for problem in TOOL["Project"](tmp_path).check(tmp_path / "module.py")]
    assert "from __future__ import annotations" in text


def test_few_names_are_shared():
    assert len(TOOL["SHARED_NAMES"]) <= 10
