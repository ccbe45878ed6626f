"""Check the docstrings, comments and names of efface against the house rules.

    python tools/check_docstrings.py                        # the parts of the package in ENFORCED, as `make check` does
    python tools/check_docstrings.py src/efface/judges      # files or folders
    python tools/check_docstrings.py --count src/efface     # numbers only, for each part of the package

The rules, for every public function, method and class, that is, one without a leading underscore:

- It has a docstring. A method may omit it where a protocol or an abstract class of efface documents the method of that
  name, and `forward` where the class documents its tensors.
- If an argument, a field or the result is a tensor or an array, the docstring mentions a shape such as `(n, d)`; also
  accepted are "scalar", "any shape" and "same shape". Tensors by name (`dict[str, Tensor]`) need none.
- With three or more arguments it has `Args:` (`Attributes:` for a record's fields), which names each of them. Commands
  of the command line are exempt: each option has its help.
- If its body raises an error of efface, it has `Raises:`, which names the error or one of its bases.
- Entries of a section begin with a capital letter.

For every file: no banned word in a docstring, comment, message or defined name; `from __future__ import annotations`
where there are annotations; and no public class or function name that another module of efface defines too.
Pydocstyle's rules about form are ruff's (pyproject.toml).
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "efface"

# The parts of the package that pass, relative to src/efface. The list grows until it is the whole package.
ENFORCED: tuple[str, ...] = (
    "__init__.py",
    "__main__.py",
    "api",
    "apply",
    "attacks",
    "edits",
    "eraser",
    "errors.py",
    "files.py",
    "formats",
    "generation/__init__.py",
    "generation/by_pipeline.py",
    "generation/folder.py",
    "generation/jobs.py",
    "generation/run.py",
    "generation/sampling.py",
    "generation/schedulers.py",
    "hub.py",
    "judges/shared",
    "judges/training",
    "judges/verdicts.py",
    "judges/wrappers.py",
    "methods",
    "metrics/extractors",
    "metrics/features.py",
    "metrics/rates.py",
    "models",
    "progress.py",
    "protocols",
    "provenance.py",
    "registry.py",
    "report",
    "request",
    "settings.py",
    "tools.py",
    "work_folder.py",
)


# The only public names that more than one module may define: the functions that every plug-in of a kind has.
SHARED_NAMES = frozenset({"erase", "combine", "write", "prepare", "search"})

# Words with a plain equivalent: say stored, preserved or cached for kept, fix for mend, restore for give back.
BANNED_WORDS = ("told", "said", "nobody", "whom", "mend", "mends", "mended", "mending", "kept")
BANNED_PHRASES = ("gives? back", "gave back", "given back", "giving back", "be it that")
# Names that do not say what the value is. The first are banned as a part of a name too (`kept_rows`).
BANNED_NAME_PARTS = frozenset(BANNED_WORDS)
BANNED_NAMES = frozenset({"own", "found", "wide", "apart", "made", "whole"})

_BANNED_TEXT = re.compile(rf"\b({'|'.join((*BANNED_WORDS, *BANNED_PHRASES))})\b", re.IGNORECASE)
_ARRAYS = frozenset({"Tensor", "NDArray", "Array", "Pixels", "Scores", "Picture"})
# What an annotation holds inside these is not an array of the argument itself.
_OPAQUE = frozenset({"dict", "Mapping", "MutableMapping", "Callable", "Literal", "Annotated"})
_DIMENSION = r"(?:\.\.\.|[\w'.]+(?: ?[-+*/x·|] ?[\w'.]+)*)"
_SHAPE = re.compile(
    rf"\({_DIMENSION},\)|\({_DIMENSION}(?:, {_DIMENSION})+\)|\(\)|\bscalars?\b|\bany shape\b|\bsame shapes?\b",
    re.IGNORECASE,
)
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")
_ENTRY = re.compile(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \(.*?\))?: *(.*)$")
_RECORDS = frozenset({"Settings", "BaseModel", "NamedTuple", "TypedDict"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Problem(NamedTuple):
    """A place where a rule is broken.

    Attributes:
        path: The file.
        line: The line, from 1.
        text: One sentence.
    """

    path: Path
    line: int
    text: str


class Project:
    """The modules of efface, and what the rules need to know of all of them.

    Attributes:
        package: The folder of the package.
        modules: The syntax tree of each file.
        errors: Each of efface's errors with the names of its bases and its own.
        contracts: The methods that a protocol or an abstract class documents.
        definitions: The files that define each public function and class.
    """

    def __init__(self, package: Path) -> None:
        self.package = package
        self.modules = {
            path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in sorted(package.rglob("*.py"))
        }
        classes = [node for tree in self.modules.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        bases = {node.name: {name for base in node.bases for name in _names_in(base)} for node in classes}
        self.errors = _lineages(bases, "BadInput")
        self.contracts = {
            method.name
            for node in classes
            if bases[node.name] & {"Protocol", "ABC"}
            for method in node.body
            if isinstance(method, Function) and ast.get_docstring(method)
        }
        self.definitions: dict[str, set[Path]] = {}
        for path, tree in self.modules.items():
            for node in tree.body:
                if isinstance(node, Function | ast.ClassDef) and _is_public(node.name):
                    self.definitions.setdefault(node.name, set()).add(path)

    def check(self, path: Path) -> list[Problem]:
        """All problems of one file, in order of lines."""
        tree = self.modules[path]
        texts = [*self._definitions_of(tree), *_banned_text(path), *_banned_names(tree), *_future_import(tree)]
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef):
                others = self.definitions.get(node.name, set()) - {path}
                if others and node.name not in SHARED_NAMES:
                    places = ", ".join(sorted(str(other.relative_to(self.package)) for other in others))
                    texts.append((node.lineno, f"'{node.name}' is also defined in {places}."))
        return [Problem(path, line, text) for line, text in sorted(set(texts))]

    def _definitions_of(self, tree: ast.Module) -> Iterator[tuple[int, str]]:
        if not ast.get_docstring(tree):
            yield 1, "The module has no docstring."
        for node in tree.body:
            if isinstance(node, Function) and _is_public(node.name):
                yield from self._function(node, node.name)
            elif isinstance(node, ast.ClassDef) and _is_public(node.name):
                yield from self._class(node)

    def _class(self, node: ast.ClassDef) -> Iterator[tuple[int, str]]:
        docstring = ast.get_docstring(node)
        if docstring is None:
            yield node.lineno, f"Class '{node.name}' has no docstring."
            return
        fields = {
            item.target.id: item.annotation
            for item in node.body
            if isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and _is_public(item.target.id)
            and "ClassVar" not in _names_in(item.annotation)
        }
        is_record = any(_names_in(item) & {"dataclass"} for item in node.decorator_list) or any(
            _names_in(base) & _RECORDS for base in node.bases
        )
        if is_record and len(fields) > 2:
            yield from _missing(docstring, ("Attributes", "Args"), fields, node)
        constructor = next((item for item in node.body if isinstance(item, Function) and item.name == "__init__"), None)
        arguments = _arguments(constructor) if constructor else {}
        if len(arguments) > 2:
            yield from _missing(docstring, ("Args",), arguments, node)
        annotations = [*(fields.values() if is_record else ()), *arguments.values()]
        if any(_is_array(item) for item in annotations) and not _SHAPE.search(docstring):
            yield node.lineno, f"Class '{node.name}' holds tensors, but its docstring mentions no shape such as (n, d)."
        yield from _capitals(docstring, node)
        for item in node.body:
            if isinstance(item, Function) and _is_public(item.name):
                yield from self._function(item, f"{node.name}.{item.name}", node)

    def _function(self, node: Function, name: str, owner: ast.ClassDef | None = None) -> Iterator[tuple[int, str]]:
        decorators = {part for item in node.decorator_list for part in _names_in(item)}
        if decorators & {"overload", "setter", "override"}:
            return
        docstring = ast.get_docstring(node)
        if docstring is None:
            if owner is None or node.name not in {*self.contracts, "forward"}:
                yield node.lineno, f"'{name}' has no docstring."
            elif node.name == "forward" and not _SHAPE.search(ast.get_docstring(owner) or ""):
                yield node.lineno, f"'{name}' takes tensors, but neither it nor its class mentions a shape."
            return
        arguments = _arguments(node)
        is_command = node.name.endswith("_command") or any(
            "typer" in _names_in(item) for item in arguments.values() if item is not None
        )
        if len(arguments) > 2 and not is_command:
            yield from _missing(docstring, ("Args",), arguments, node)
        if any(_is_array(item) for item in (*arguments.values(), node.returns)) and not _SHAPE.search(docstring):
            yield node.lineno, f"'{name}' takes or returns tensors, but its docstring mentions no shape such as (n, d)."
        documented = set(_sections(docstring).get("Raises", {}))
        for error in sorted(_raised(node) & set(self.errors)):
            if not documented & self.errors[error] and not is_command:
                yield node.lineno, f"'{name}' raises {error}, but its docstring has no such entry under 'Raises:'."
        yield from _capitals(docstring, node)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the problems, and return the exit code: 0 if there are none, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="Files or folders; by default those that are enforced.")
    parser.add_argument("--count", action="store_true", help="Print the number of problems of each part only.")
    options = parser.parse_args(arguments)
    paths = [path.resolve() for path in options.paths or [PACKAGE / part for part in ENFORCED]]
    project = Project(PACKAGE)
    if strangers := [path for path in paths if not any(module.is_relative_to(path) for module in project.modules)]:
        parser.error(f"{strangers[0]} is no module and no folder of {PACKAGE}")
    chosen = [path for path in project.modules if any(path.is_relative_to(each) for each in paths)]
    problems = [problem for path in chosen for problem in project.check(path)]
    if options.count:
        counts = Counter(problem.path.relative_to(PACKAGE).parts[0] for problem in problems)
        print("\n".join(f"{count:5} {part}" for part, count in sorted(counts.items())))
    else:
        for path, line, text in problems:
            print(f"{path.relative_to(ROOT)}:{line}: {text}")
    if problems:
        print(f"{len(problems)} problems in {len({problem.path for problem in problems})} files.", file=sys.stderr)
    return 1 if problems else 0


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _names_in(node: ast.AST | None) -> set[str]:
    """Every name and attribute in an expression, those in quoted annotations too."""
    names: set[str] = set()
    for item in ast.walk(node) if node else ():
        if isinstance(item, ast.Name):
            names.add(item.id)
        elif isinstance(item, ast.Attribute):
            names.add(item.attr)
        elif isinstance(item, ast.Constant) and isinstance(item.value, str):
            names |= set(re.findall(r"\w+", item.value))
    return names


def _lineages(bases: dict[str, set[str]], root: str) -> dict[str, set[str]]:
    """Each class that derives from `root`, and `root`, with the names of its ancestors and its own."""
    lineages: dict[str, set[str]] = {root: {root}}
    pending = True
    while pending:
        pending = False
        for name, parents in bases.items():
            if name not in lineages and (known := parents & lineages.keys()):
                lineages[name] = {name}.union(*(lineages[parent] for parent in known))
                pending = True
    return lineages


def _arguments(node: Function) -> dict[str, ast.expr | None]:
    """The arguments by name with their annotations, without `self`, `cls`, variadic and private ones."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return {a.arg: a.annotation for a in arguments if a.arg not in ("self", "cls") and _is_public(a.arg)}


def _is_array(annotation: ast.expr | None) -> bool:
    """Whether an annotation is or contains an array, other than as a value by name or an argument of a callable."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.Subscript):
        if _names_in(annotation.value) & _OPAQUE:
            return False
        return _is_array(annotation.value) or _is_array(annotation.slice)
    if isinstance(annotation, ast.BinOp):
        return _is_array(annotation.left) or _is_array(annotation.right)
    if isinstance(annotation, ast.Tuple | ast.List):
        return any(_is_array(item) for item in annotation.elts)
    if isinstance(annotation, ast.Attribute):
        return annotation.attr in _ARRAYS
    return isinstance(annotation, ast.Name) and annotation.id in _ARRAYS


def _raised(node: Function) -> set[str]:
    """The classes that the body raises by name, without those of functions inside."""
    names: set[str] = set()
    pending: list[ast.AST] = list(node.body)
    while pending:
        item = pending.pop()
        if isinstance(item, ast.Raise) and item.exc:
            target = item.exc.func if isinstance(item.exc, ast.Call) else item.exc
            names |= {target.id} if isinstance(target, ast.Name) else set()
        if not isinstance(item, Function | ast.Lambda):
            pending += ast.iter_child_nodes(item)
    return names


def _sections(docstring: str) -> dict[str, dict[str, str]]:
    """The entries of each section by name, with the first line of each text; prose is under the empty name."""
    sections: dict[str, dict[str, str]] = {}
    entries: dict[str, str] | None = None
    for line in docstring.splitlines():
        if match := _SECTION.match(line):
            entries = sections.setdefault(match[1], {})
        elif line and not line.startswith(" "):
            entries = None
        elif entries is not None and line.strip():
            if match := _ENTRY.match(line):
                entries |= {name.lstrip("*"): match[2] for name in match[1].split(", ")}
            elif line.startswith("    ") and not line.startswith("     "):
                entries.setdefault("", line.strip())
    return sections


def _missing(
    docstring: str, titles: tuple[str, ...], names: dict[str, ast.expr | None] | dict[str, ast.expr], node: ast.AST
) -> Iterator[tuple[int, str]]:
    sections = _sections(docstring)
    entries = [entries for title in titles if (entries := sections.get(title))]
    name, line = getattr(node, "name", ""), getattr(node, "lineno", 1)
    if not entries:
        yield line, f"'{name}' has {len(names)} arguments or fields, but its docstring has no '{titles[0]}:'."
        return
    if absent := [argument for argument in names if not any(argument in each for each in entries)]:
        yield line, f"'{name}': '{titles[0]}:' does not name {', '.join(absent)}."


def _capitals(docstring: str, node: ast.AST) -> Iterator[tuple[int, str]]:
    for title, entries in _sections(docstring).items():
        is_prose = title in ("Returns", "Yields")
        for name, text in entries.items():
            first = (f"{name}: {text}" if name else text) if is_prose else text
            if first[:1].islower() and not (is_prose and name):
                where = f"'{name}' under '{title}:'" if name else f"the text under '{title}:'"
                yield getattr(node, "lineno", 1), f"'{getattr(node, 'name', '')}': {where} begins in lower case."


def _banned_text(path: Path) -> Iterator[tuple[int, str]]:
    """Banned words in comments, docstrings and messages; a string without a space is a key or a name, not a message."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            is_text = token.type == tokenize.STRING or tokenize.tok_name[token.type] == "FSTRING_MIDDLE"
            if token.type == tokenize.COMMENT or (is_text and " " in token.string):
                for match in _BANNED_TEXT.finditer(token.string):
                    line = token.start[0] + token.string.count("\n", 0, match.start())
                    yield line, f"Write another word than '{match[0]}'."


def _banned_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        else:
            continue
        parts = set(name.lower().strip("_").split("_"))
        if name.lower().strip("_") in BANNED_NAMES or parts & BANNED_NAME_PARTS:
            yield getattr(node, "lineno", 1), f"The name '{name}' does not say what the value is."


def _future_import(tree: ast.Module) -> Iterator[tuple[int, str]]:
    annotated = any(
        isinstance(node, ast.AnnAssign)
        or (isinstance(node, ast.arg) and node.annotation)
        or (isinstance(node, Function) and node.returns)
        for node in ast.walk(tree)
    )
    imports = {item.module for item in tree.body if isinstance(item, ast.ImportFrom)}
    if annotated and "__future__" not in imports:
        yield 1, "The module has annotations but no 'from __future__ import annotations'."


if __name__ == "__main__":
    sys.exit(main())
