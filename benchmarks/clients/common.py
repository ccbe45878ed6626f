"""What the scripts of all programs share: reading the cases of a family, and comparing weights.

A script is run as `python -m clients.NAME CHECKOUT FOLDER...`, by an interpreter that has the program's packages. It
prints one line of JSON per file: the numbers of keys in the file and of those that the program matched, and the largest
difference of the program's weights after loading from the expected ones.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor

RESULT = "client_loaders: "  # begins the lines that are read by client_loaders.py


@dataclass(frozen=True)
class Family:
    """The files of one family: its folder, the unedited weights by diffusers' names, and the cases."""

    name: str
    folder: Path
    base: Mapping[str, Tensor]
    cases: tuple[dict[str, Any], ...]

    def expected(self, case: Mapping[str, Any]) -> dict[str, Tensor]:
        """All weights of the edited model, (...), by diffusers' names."""
        return {**self.base, **load_file(self.folder / f"{case['eraser']}.expected.safetensors")}

    def part(self, part: str) -> dict[str, Tensor]:
        """The unedited weights of a part, (...), by their names in the part."""
        return {name.removeprefix(f"{part}."): w for name, w in self.base.items() if name.startswith(f"{part}.")}


@dataclass(frozen=True)
class Loaded:
    """A file as a program loaded it.

    Attributes:
        matched: The number of the file's keys that the program used.
        weights: The program's weights after loading, (...), by diffusers' names.
        note: What has to be known besides.
    """

    matched: int
    weights: Mapping[str, Tensor]
    note: str = ""


Load: TypeAlias = Callable[[Family, dict[str, Any]], Loaded | None]
LoadFile: TypeAlias = Callable[[Family, Path], Loaded | None]


def module(name: str) -> Any:
    """A module of the program, which has no types here."""
    return importlib.import_module(name)


def by_format(load_lora: LoadFile, load_checkpoint: LoadFile) -> Load:
    """Loads a single file as a checkpoint, and a file of another format as a LoRA."""

    def load(family: Family, case: dict[str, Any]) -> Loaded | None:
        path = family.folder / case["name"]
        return load_checkpoint(family, path) if case["format"] == "single-file" else load_lora(family, path)

    return load


def run(load: Load, formats: Iterable[str], folders: Iterable[Path]) -> None:
    """Load all files of these formats, and print one line of JSON for each.

    Args:
        load: Loads a file; None means that the program cannot read a file of this content.
        formats: The formats that the program reads.
        folders: The folders of the families.
    """
    for folder in folders:
        cases = json.loads((folder / "cases.json").read_text())
        family = Family(folder.name, folder, load_file(folder / "base.safetensors"), tuple(cases))
        for case in family.cases:
            if case["format"] not in formats:
                continue
            with torch.inference_mode():
                loaded = load(family, case)
            if loaded is None:
                continue
            expected = family.expected(case)
            row = {
                "family": family.name,
                **{name: case[name] for name in ("eraser", "format", "dtype", "keys")},
                "matched": loaded.matched,
                "weights": len(loaded.weights),
                "changed": sum(not torch.equal(expected[name], family.base[name]) for name in loaded.weights),
                "change": max(_distance(expected[name], family.base[name]) for name in loaded.weights),
                "difference": max(_distance(loaded.weights[name], expected[name]) for name in loaded.weights),
                "note": loaded.note,
            }
            print(RESULT + json.dumps(row), flush=True)


class _Absent(ModuleType):
    """A package that a program imports and its loaders do not use; each of its names is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **options: None})


class _Finder(MetaPathFinder, Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in self.names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def leave_out(*names: str) -> None:
    """Import empty packages under these names, if they are not installed."""
    sys.meta_path.append(_Finder(names))


def _distance(one: Tensor, other: Tensor) -> float:
    assert one.numel() == other.numel(), f"{tuple(one.shape)} and {tuple(other.shape)}"
    return float((one.double().reshape(other.shape) - other.double()).abs().max())


def arguments() -> tuple[Path, list[Path]]:
    """The checkout and the folders of the families, from the command line; the checkout is importable afterwards."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parsed = parser.parse_args()
    sys.argv = sys.argv[:1]  # programs read the command line when they are imported
    sys.path.insert(0, str(parsed.checkout))
    return parsed.checkout, parsed.folders
