"""The import graph of the package: no circle, and one direction.

The graph has an edge for each import statement in the source, whether it is at the top of a module, inside a function
or under TYPE_CHECKING, and whether it is absolute or relative. `from a.b import c` is an import of the module a.b.c if
there is one, else of a.b.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"

#: The parts of the package, lowest first: a part imports itself and the parts before it.
ORDER = (
    "errors",
    "registry",
    "settings",
    "progress",
    "files",
    "rerun",
    "parsing",
    "tensor_files",
    "tensor_writing",
    "json_writing",
    "sealed",
    "tables",
    "image_files",
    "work_folder",
    "workers",
    "crew",
    "provenance",
    "downloads",
    "hub",
    "request",
    "models",
    "edits",
    "apply",
    "methods",
    "eraser",
    "formats",
    "generation",
    "judges",
    "metrics",
    "attacks",
    "tools",
    "protocols",
    "report",
    "api",
    "__init__",
    "cli",
    "__main__",
)

#: Parts whose imports are not in order yet. Only remove entries.
PENDING: frozenset[str] = frozenset()

Graph = Mapping[str, frozenset[str]]


def modules() -> dict[str, Path]:
    """The file of each module; a package's `__init__` has the name of the package."""
    files: dict[str, Path] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


def imported_by(module: str, is_package: bool, source: str, known: Iterable[str]) -> frozenset[str]:
    """The modules among those known that the source of a module imports."""
    known = set(known)
    targets: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                targets.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base)
    return frozenset(targets & known - {module})


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The imports of each module of the package."""
    files = modules()
    return {
        module: imported_by(module, file.name == "__init__.py", file.read_text(encoding="utf-8"), files)
        for module, file in files.items()
    }


def circles(graph: Graph) -> list[frozenset[str]]:
    """The strongly connected components of two nodes or more (Tarjan, 1972, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[frozenset[str]] = []
    for root in graph:
        work = [(root, iter(sorted(graph[root])))] if root not in index else []
        while work:
            node, rest = work[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
            for target in rest:
                if target not in index:
                    work.append((target, iter(sorted(graph[target]))))
                    break
                if target in stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = stack[stack.index(node) :]
                    del stack[stack.index(node) :]
                    if len(component) > 1:
                        components.append(frozenset(component))
    return components


def collapsed(graph: Graph, package: str) -> Graph:
    """The graph of a package's children, modules and subpackages; its `__init__` is the child of its own name."""

    def child(module: str) -> str | None:
        if module == package:
            return f"{package}.__init__"
        if not module.startswith(f"{package}."):
            return None
        return f"{package}.{module.removeprefix(f'{package}.').split('.')[0]}"

    edges: dict[str, set[str]] = {}
    for module, targets in graph.items():
        if (start := child(module)) is not None:
            ends = {end for target in targets if (end := child(target)) is not None and end != start}
            edges.setdefault(start, set()).update(ends)
    return {node: frozenset(ends) for node, ends in edges.items()}


def part_of(module: str) -> str:
    """The part of the package that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def test_no_import_goes_against_the_order(graph: Graph) -> None:
    assert {part_of(module) for module in graph} == set(ORDER), "a new part needs a place in ORDER"
    position = {part: index for index, part in enumerate(ORDER)}
    against = [
        (module, target)
        for module, targets in graph.items()
        for target in targets
        if position[part_of(target)] > position[part_of(module)] and part_of(module) not in PENDING
    ]
    assert not against


def test_no_modules_import_each_other_in_a_circle(graph: Graph) -> None:
    assert not [circle for circle in circles(graph) if not PENDING & {part_of(module) for module in circle}]


def test_no_children_of_a_package_import_each_other_in_a_circle(graph: Graph) -> None:
    packages = [module for module, file in modules().items() if file.name == "__init__.py"]
    all_circles = [circle for package in packages for circle in circles(collapsed(graph, package))]
    assert not [circle for circle in all_circles if not PENDING & {part_of(child) for child in circle}]


def test_every_kind_of_import_counts() -> None:
    known = ("p", "p.a", "p.a.x", "p.b", "p.c", "p.d", "p.e")
    source = """
import p.a.x
from p import b, name
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from p.c import Name
def function():
    from . import d
    from .e import name
"""
    assert imported_by("p.m", False, source, known) == {"p", "p.a.x", "p.b", "p.c", "p.d", "p.e"}
    assert imported_by("p.a", True, "from . import x\nfrom .. import b\nfrom ..c import name", known) == {
        "p.a.x",
        "p.b",
        "p.c",
    }


def test_circles_are_found_of_modules_and_of_subpackages() -> None:
    graph = {
        "p": frozenset[str](),
        "p.a": frozenset[str](),
        "p.a.x": frozenset({"p.b.y"}),
        "p.a.z": frozenset({"p.a.x"}),
        "p.b": frozenset({"p"}),
        "p.b.y": frozenset[str](),
        "p.b.w": frozenset({"p.a.z", "p.b.v"}),
        "p.b.v": frozenset({"p.b.w"}),
    }
    assert circles(graph) == [frozenset({"p.b.v", "p.b.w"})]
    assert circles(collapsed(graph, "p")) == [frozenset({"p.a", "p.b"})]
    assert circles({"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"})}) == [
        frozenset({"a", "b", "c"})
    ]
