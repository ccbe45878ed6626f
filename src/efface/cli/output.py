"""What a command says, where it says it, and where it may write."""

import json
import re
import unicodedata
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from efface.errors import BadFile, BadInput
from efface.files import atomic

if TYPE_CHECKING:
    from efface.progress import Progress

MARK = "efface.json"


class Screen:
    """Standard output and standard error, by the rule that `--json` leaves nothing but its object on the former.

    Args:
        json: whether the answer is wanted as JSON.
    """

    def __init__(self, json: bool) -> None:
        from rich.console import Console

        self.json = json
        self.people: Console = Console(stderr=json, highlight=False, soft_wrap=True)

    def say(self, text: str = "") -> None:
        """A line for people, as it is: nothing in it is markup."""
        self.people.print(text, markup=False)

    def heading(self, text: str) -> None:
        """A line for people that stands out."""
        self.people.print(text, markup=False, style="bold")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for people; cells are shown as they are."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.people.print(table, soft_wrap=False)

    def answer(self, content: Mapping[str, object]) -> None:
        """The JSON answer, if it was asked for."""
        if self.json:
            print(json.dumps(content, ensure_ascii=False, allow_nan=False))

    @contextmanager
    def progress(self) -> "Generator[Progress, None, None]":
        """A function to tell how far the work is, and a note; draws bars on standard error where it is a terminal."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        end = (TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
        console = Console(stderr=True)
        with Progress(*columns, *end, console=console, transient=True, disable=not console.is_terminal) as bars:
            tasks = {task.description: task.id for task in bars.tasks}

            def tell(what: str, done: int, total: int, note: str = "") -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total, note=note)
                bars.update(tasks[what], completed=done, total=total, note=note)

            yield tell


def slug(text: str, limit: int = 60) -> str:
    """A file name made of what a text says: letters, digits and hyphens, never a path."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return words[:limit].rstrip("-") or "concept"


class _WritableError(Exception):
    """Ends a trial of writing that went well."""


def check_target(path: Path, force: bool) -> None:
    """Find out whether a file can be written before the work is done rather than after it.

    Raises:
        BadFile: it cannot, or exists and `force` is false.
    """
    # Leaving by an exception makes `atomic` take the temporary file away again.
    with suppress(_WritableError), atomic(path, force) as temporary:
        temporary.touch()
        raise _WritableError


@contextmanager
def claim(
    folder: Path, command: str, work: Mapping[str, object], result: str, force: bool
) -> Generator[None, None, None]:
    """Take a folder for one piece of work, or take it up again where it was interrupted.

    If the work turns out to be impossible as asked, a folder that was made for it is taken away again.

    Args:
        folder: where the work goes; made if need be.
        command: the command's name.
        work: what determines the outcome; the same work resumes.
        result: the file whose presence says that the work is complete.
        force: whether other or completed work may be replaced.

    Raises:
        BadFile: the folder holds something else, or cannot be written.
    """
    mark = folder / MARK
    mine = {"command": command, **work}
    is_new = not folder.exists()
    if not is_new and not folder.is_dir():
        raise BadFile(f"Cannot write to {folder}: it is a file; give a folder with -o.")
    try:
        if not force and not is_new and any(path for path in folder.iterdir() if not _is_left_over(path)):
            _may_resume(folder, mark, mine, result)
        folder.mkdir(parents=True, exist_ok=True)
        if force:
            (folder / result).unlink(missing_ok=True)
        # What a run left that was killed while it wrote: in a folder that is ours, anywhere.
        for path in folder.rglob(".*.tmp") if mark.exists() else folder.glob(f".{MARK}.*.tmp"):
            path.unlink(missing_ok=True)
        # Even an unchanged mark is written: a folder that cannot be is found out now, not after the work.
        with atomic(mark) as temporary:
            temporary.write_text(json.dumps(mine, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadFile(f"Cannot write to {folder}: {error.strerror}.") from error
    try:
        yield
    except BadInput:
        if is_new and [path.name for path in folder.iterdir()] == [MARK]:
            mark.unlink()
            folder.rmdir()
        raise


def _is_left_over(path: Path) -> bool:
    """Whether it is what `atomic` leaves of a mark where it was killed."""
    return path.name.startswith(f".{MARK}.") and path.suffix == ".tmp"


def _may_resume(folder: Path, mark: Path, mine: Mapping[str, object], result: str) -> None:
    try:
        theirs: object = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadFile(f"{folder} is not empty and not efface's; choose another -o, or pass --force.") from None
    if theirs != json.loads(json.dumps(mine)):
        raise BadFile(f"{folder} holds other work; choose another -o, or pass --force to replace it.")
    if (folder / result).exists():
        raise BadFile(
            f"{folder} is already complete: see {folder / result}; choose another -o, or pass --force to do it again."
        )
