"""What a command has written, in a form in which two runs of the same work are equal."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from efface import Eraser
from efface.eraser.file import is_eraser_file
from efface.files import sha256_of_file

#: Keys of JSON whose values are times.
_TIMES = frozenset({"seconds", "seconds_per_prompt", "timings", "date", "started", "finished"})
#: Files that record when something was done; the numbers of the page are in report.json too.
_RECORDS = frozenset({".html", ".log"})


def content_of(folder: Path) -> dict[str, object]:
    """The files below a folder by their paths in it, without times and without the folder's name.

    Erasers by hash, request and provenance; JSON as values; other files by their SHA-256; logs and pages by their names
    alone.

    Args:
        folder: The output folder of a command.
    """
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): _content(path, str(folder)) for path in paths}


def _content(path: Path, folder: str) -> object:
    if path.suffix in _RECORDS:
        return None
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text().replace(folder, "OUT")
        return [_stable(json.loads(line)) for line in ([text] if path.suffix == ".json" else text.splitlines())]
    if path.suffix == ".safetensors" and is_eraser_file(path):
        eraser = Eraser.load(path)
        return [eraser.hash, eraser.request.model_dump_json(), _stable(dict(eraser.provenance))]
    return sha256_of_file(path)


def _stable(value: object) -> object:
    """JSON without times."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value)
        return {key: _stable(inner) for key, inner in items.items() if key not in _TIMES}
    return [_stable(inner) for inner in cast("list[object]", value)] if isinstance(value, list) else value


def leftovers(trial: Path, expected: Mapping[str, object], temporary: Collection[str]) -> list[str]:
    """The files that an uninterrupted run does not leave, and partly written ones in the cache.

    Args:
        trial: The folder of a trial, with `out`, `cache` and `tmp`.
        expected: The content of `out` after an uninterrupted run.
        temporary: The names in `tmp` after that run.
    """
    folders = {str(parent) for name in expected for parent in Path(name).parents}
    paths = {str(path.relative_to(trial / "out")) for path in (trial / "out").rglob("*")}
    partial = [path.name for path in (trial / "cache").rglob("*.tmp")]
    others = [path.name for path in (trial / "tmp").iterdir() if path.name not in temporary]
    return [*sorted(paths - expected.keys() - folders), *partial, *others]
