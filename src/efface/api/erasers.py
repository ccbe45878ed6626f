"""Erasers from arguments: objects, files, folders of files and patterns, and the name of each eraser in a report.

A training writes `component-0-step-50.safetensors` as it proceeds (`save_freq`). Such a checkpoint is an eraser like
any other, and its name in a report is its step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, cast

from efface.errors import BadInput
from efface.files import slug

if TYPE_CHECKING:
    from typing import TypeAlias

    from efface.api.arguments import DeviceLike, ModelLike
    from efface.eraser.eraser import Eraser
    from efface.request.record import Request

    EraserLike: TypeAlias = Eraser | Path | str

#: File endings of the formats that `efface import` reads.
_CHECKPOINTS = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin"})
_SUFFIX, _STATE = ".safetensors", ".checkpoint.safetensors"
_STEP = re.compile(r"component-\d+-(step-\d+)")


def load_eraser(eraser: EraserLike, model: ModelLike | None = None, device: DeviceLike = "auto") -> Eraser:
    """The eraser itself, or the one in a file.

    Args:
        eraser: An eraser, its file, or with a model any file that `efface import` reads.
        model: The model that the file of another tool was made for. Without one, such a file is refused.
        device: The device to open a model's name on, or an `efface.Runtime`.

    Raises:
        BadFile: The file is missing, damaged, or not an eraser.
        BadInput: The argument is neither an eraser nor a file.
    """
    from efface.eraser.eraser import Eraser
    from efface.eraser.file import is_eraser_file

    if isinstance(eraser, Eraser):
        return eraser
    if not isinstance(cast("object", eraser), (str, Path)):
        raise BadInput(f"An eraser or its file is expected, and this is a {type(eraser).__name__}.")
    if model is None or is_eraser_file(Path(eraser)):
        return Eraser.load(eraser)
    from efface.api.import_eraser import imported_eraser

    return imported_eraser(eraser, model, device)


def eraser_list(erasers: EraserLike | Sequence[EraserLike]) -> Sequence[EraserLike]:
    """One eraser or several as a sequence."""
    return erasers if isinstance(erasers, Sequence) and not isinstance(erasers, str) else [erasers]


def named_erasers(
    erasers: EraserLike | Sequence[EraserLike] | Mapping[str, EraserLike],
    model: ModelLike | None = None,
    device: DeviceLike = "auto",
    names: str | None = None,
) -> dict[str, Eraser]:
    """Erasers by the name that a report gives them.

    Args:
        erasers: Erasers; files, folders of files, or patterns; or erasers by name.
        model: The model that files of other tools were made for; see `load_eraser`.
        device: The device to open a model's name on, or an `efface.Runtime`.
        names: The files of folders to use; see `eraser_files`.

    Returns:
        Erasers by name: files first, then erasers in memory. A file's name is its stem; an eraser in memory has the
        name that `efface erase` would give its file.

    Raises:
        BadInput: An argument matches no file, a file is no eraser, or two erasers have the same name.
    """
    named = erasers if isinstance(erasers, Mapping) else named_sources(erasers, names)
    return {name: load_eraser(eraser, model, device) for name, eraser in named.items()}


def named_sources(erasers: EraserLike | Sequence[EraserLike], names: str | None = None) -> dict[str, EraserLike]:
    """Files of erasers, and erasers in memory, by the name that a report gives them; no file is read.

    Args:
        erasers: Erasers; files, folders of files, or patterns.
        names: The files of folders to use; see `eraser_files`.

    Raises:
        BadInput: An argument matches no file, or two erasers have the same name.
    """
    named: dict[str, EraserLike] = {}
    files = [str(eraser) for eraser in eraser_list(erasers) if isinstance(eraser, (str, Path))]
    named |= eraser_files(files, names)
    for eraser in eraser_list(erasers):
        if isinstance(eraser, (str, Path)):
            continue
        name = default_name(eraser.request)
        if name in named:
            raise BadInput(f"Two erasers have the name '{name}'; give a mapping from names to erasers instead.")
        named[name] = eraser
    return named


def default_name(request: Request) -> str:
    """The stem of the file that `efface erase` writes: up to three concepts, the number of others, and the method."""
    names = "-".join(slug(concept, 24) for concept in request.names[:3])
    more = "" if len(request.names) <= 3 else f"-and-{len(request.names) - 3}-more"
    return f"{names}{more}-{request.method}"


def eraser_files(arguments: Sequence[str], names: str | None = None) -> dict[str, Path]:
    """Find the files that arguments name.

    Args:
        arguments: Files, folders of files, or patterns.
        names: A regular expression, or a shell pattern, for the names of the files of each folder and its subfolders.
            They may be of any format that `efface import` reads. None means the erasers in the folder itself.

    Returns:
        Files by name, in the order of the arguments. The files of a folder or pattern are sorted by the numbers in
        their names (step 5 before step 10).

    Raises:
        BadInput: An argument matches no file, or two files have the same name.
    """
    matched = (_filtered(argument, names) if names is not None else _matches(argument) for argument in arguments)
    paths = list(dict.fromkeys(path for several in matched for path in several))
    taken = _names_of(paths)
    for name in taken:
        if taken.count(name) > 1 or name == "base":
            raise BadInput(f"The eraser name '{name}' is taken; rename one file: reports use the file's name.")
    return dict(zip(taken, paths, strict=True))


def _filtered(argument: str, names: str) -> list[Path]:
    """The checkpoints in a folder whose names match a regular expression or a shell pattern."""
    folder = Path(argument)
    if not folder.is_dir():
        raise BadInput(f"--filter selects files of a folder, and {argument} is none; give the folder.")
    try:
        matches = re.compile(names).search
    except re.error as error:
        if not has_magic(names):
            raise BadInput(f"The filter '{names}' is neither a regular expression ({error}) nor a pattern.") from error
        matches = None
    files = [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in _CHECKPOINTS and file.is_file() and not file.name.lower().endswith(_STATE)
    ]
    chosen = [file for file in files if fnmatch(file.name, names) or (matches and matches(file.name))]
    if not chosen:
        some = ", ".join(sorted(file.name for file in files)[:3])
        raise BadInput(f"No checkpoint in {argument} matches '{names}'; {f'it has {some}' if some else 'it has none'}.")
    return sorted(chosen, key=_by_number)


def _matches(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir() and not _has_layers(path):
        files = [file for file in path.iterdir() if _is_eraser(file)]
        problem = f"the folder {argument} holds no eraser"
    elif has_magic(argument) and not path.exists():
        files = [file for file in map(Path, glob(argument, recursive=True)) if _is_eraser(file)]  # noqa: PTH207 - absolute, too
        problem = f"no eraser matches the pattern {argument}"
    else:
        return [path]
    if not files:
        raise BadInput(f"Nothing to evaluate: {problem}; erasers end in {_SUFFIX}.")
    return sorted(files, key=_by_number)


def _has_layers(folder: Path) -> bool:
    """Whether a folder is one eraser, in the format of the U&ME challenge entry."""
    from efface.formats.layers import concept_of_layers

    return concept_of_layers(folder) is not None


def _is_eraser(path: Path) -> bool:
    """Whether the file's name is that of an eraser, and not that of a training's state."""
    name = path.name.lower()
    return path.is_file() and name.endswith(_SUFFIX) and not name.endswith(_STATE)


def _by_number(path: Path) -> list[tuple[bool, int, str]]:
    pieces = re.split(r"(\d+)", str(path))
    return [(piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in pieces]


def _names_of(paths: Sequence[Path]) -> list[str]:
    """Stems; for a checkpoint the step, preceded by component and training where steps alone are ambiguous."""
    steps = {path: step[1] for path in paths if (step := _STEP.fullmatch(path.stem))}
    naming: list[Callable[[Path], str]] = [
        lambda path: steps[path],
        lambda path: path.stem,
        lambda path: f"{path.resolve().parent.stem}-{path.stem}",
    ]
    candidates = ([name_of(path) if path in steps else path.stem for path in paths] for name_of in naming)
    return next((names for names in candidates if len(set(names)) == len(names)), [path.stem for path in paths])
