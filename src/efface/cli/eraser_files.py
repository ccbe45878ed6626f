"""Which erasers an argument means: a file, a folder of them, or a pattern; and what each is called in a report.

A training writes `component-0-step-50.safetensors` as it goes (`save_freq`): such a checkpoint is an eraser like any
other and goes by its step.
"""

import re
from collections.abc import Callable, Sequence
from glob import glob, has_magic
from pathlib import Path

from efface.errors import BadInput

_SUFFIX, _STATE = ".safetensors", ".checkpoint.safetensors"
_STEP = re.compile(r"component-\d+-(step-\d+)")


def eraser_files(arguments: Sequence[str]) -> dict[str, Path]:
    """Files by name, in the arguments' order; those of a folder or pattern by their numbers (step 5 before step 10).

    Raises:
        BadInput: An argument means no file, or two files would share a name.
    """
    paths = list(dict.fromkeys(path for argument in arguments for path in _meant(argument)))
    names = _named(paths)
    for name in names:
        if names.count(name) > 1 or name == "base":
            raise BadInput(f"The eraser name '{name}' is taken; rename one file: reports go by the file's name.")
    return dict(zip(names, paths, strict=True))


def _meant(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        found = [file for file in path.iterdir() if _is_eraser(file)]
        what = f"the folder {argument} holds no eraser"
    elif has_magic(argument) and not path.exists():
        found = [file for file in map(Path, glob(argument, recursive=True)) if _is_eraser(file)]  # noqa: PTH207 - absolute, too
        what = f"no eraser fits the pattern {argument}"
    else:
        return [path]
    if not found:
        raise BadInput(f"Nothing to evaluate: {what}; erasers end in {_SUFFIX}.")
    return sorted(found, key=_by_number)


def _is_eraser(path: Path) -> bool:
    """Whether a file's name is an eraser's, and not that of a training's own state."""
    return path.is_file() and path.name.endswith(_SUFFIX) and not path.name.endswith(_STATE)


def _by_number(path: Path) -> list[tuple[bool, int, str]]:
    pieces = re.split(r"(\d+)", str(path))
    return [(piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in pieces]


def _named(paths: Sequence[Path]) -> list[str]:
    """Stems; of checkpoints the step, with the component and the training's name where the step is not enough."""
    steps = {path: step[1] for path in paths if (step := _STEP.fullmatch(path.stem))}
    ways: list[Callable[[Path], str]] = [
        lambda path: steps[path],
        lambda path: path.stem,
        lambda path: f"{path.resolve().parent.stem}-{path.stem}",
    ]
    named = ([way(path) if path in steps else path.stem for path in paths] for way in ways)
    return next((names for names in named if len(set(names)) == len(names)), [path.stem for path in paths])
