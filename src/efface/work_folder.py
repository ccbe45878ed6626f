"""The folder of one piece of work: claimed by a mark, resumed after an interruption, never overwritten by other work.

The mark is the file `efface.json`. It records the command and everything that determines the outcome. The same work
resumes in its folder; other work in the same folder is an error unless `force` is set.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

from efface.errors import FORCE, AlreadyComplete, BadFile, BadInput
from efface.files import atomic, check_name, locked, remove_leftovers, remove_partial, why_not_written
from efface.json_writing import json_text
from efface.parsing import parse_json

MARK = "efface.json"
_ADVICE = f"choose another -o, or pass {FORCE} to replace it"


@contextmanager
def claim(
    folder: Path, command: str, work: Mapping[str, object], result: str, force: bool, advice: str = _ADVICE
) -> Generator[None, None, None]:
    """Claim a folder for one piece of work, or resume the same work in it.

    If the block raises `BadInput` before anything is written, a folder that was created for it is removed again.

    Args:
        folder: Where the work is written; created if it is missing.
        command: The name of the command.
        work: Everything that determines the outcome, as JSON values.
        result: The file whose presence means that the work is complete.
        force: Whether other or completed work may be replaced.
        advice: What to do if the folder holds something else.

    Raises:
        AlreadyComplete: The folder holds the result of the same work.
        BadFile: The folder holds something else, another run writes to it, or it cannot be written.
    """
    check_name(folder)
    mark = folder / MARK
    content = {"command": command, **work}
    is_new = not folder.exists()
    if not is_new and not folder.is_dir():
        raise BadFile(f"Cannot write to {folder}: it is a file; give a folder with -o.")
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
            if not force and not is_new and any(path for path in folder.iterdir() if not _is_partial_mark(path)):
                _check_resumable(folder, mark, content, result, advice)
            if force:
                (folder / result).unlink(missing_ok=True)
            remove_leftovers(mark)
            if mark.exists():
                remove_partial(folder, below=True)
            # An unchanged mark is written too, so that a read-only folder is an error now and not after the work.
            with atomic(mark) as temporary:
                temporary.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise BadFile(f"Cannot write to {folder}: {why_not_written(error)}.") from error
        try:
            yield
        except BadInput:
            if is_new and [path.name for path in folder.iterdir()] == [MARK]:
                mark.unlink()
                folder.rmdir()
            raise


def _is_partial_mark(path: Path) -> bool:
    """Whether the file is a partly written mark of a killed run."""
    return path.name.startswith(f".{MARK}.") and path.suffix == ".tmp"


def _check_resumable(folder: Path, mark: Path, content: Mapping[str, object], result: str, advice: str) -> None:
    try:
        stored: object = parse_json(mark.read_text(encoding="utf-8"), finite=False)
    except (OSError, ValueError):
        raise BadFile(f"{folder} is not empty and not efface's; {advice}.") from None
    if differences := _differences(stored, json.loads(json_text(content))):
        raise BadFile(f"{folder} holds other work ({differences}); {advice}.")
    if (folder / result).exists():
        raise AlreadyComplete(folder, folder / result)


def _differences(stored: object, content: Mapping[str, object]) -> str:
    """What the recorded work and this one differ in, in words; empty if they are the same."""
    if not isinstance(stored, dict):
        return "no record of a command"
    recorded = cast("dict[str, object]", stored)
    if recorded.get("command") != content["command"]:
        return f"of {recorded.get('command', 'another command')}"
    common = {name for name in content.keys() & recorded.keys() if recorded[name] == content[name]}
    names = (content.keys() | recorded.keys()) - common
    return f"with other {', '.join(sorted(names))}" if names else ""
