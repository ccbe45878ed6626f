"""The output of a command: text and tables, progress bars, and the JSON object of `--json`."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from efface.cli.text import CELL, LINE, is_unicode, printable
from efface.json_writing import json_text

if TYPE_CHECKING:
    from efface.progress import Progress

#: What a rate without images of the unedited model lacks.
NOT_CALIBRATED = (
    "The judge is not calibrated on these images: how often it is wrong is unknown. efface evaluate measures this on "
    "images of the unedited model."
)


#: Seconds between two lines of progress.
_EVERY = 5.0


class _Lines:
    """Progress as lines, for pipes and log files. Short work prints none."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def report(self, what: str, done: int, total: int, note: str = "") -> None:
        """Print a line, if the last one is some seconds ago."""
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            print(f"{what}: {done} of {total} {note}".rstrip(), file=sys.stderr, flush=True)


class Screen:
    """Writes to standard output, or with `--json` to standard error, and the JSON object to standard output.

    Args:
        json: Whether the command was called with `--json`.
    """

    def __init__(self, json: bool) -> None:
        from rich.console import Console

        self.json = json
        self._console: Console = Console(stderr=json, highlight=False, soft_wrap=True)

    def say(self, text: str = "") -> None:
        """Print a line of plain text, without markup."""
        self._console.print("\n".join(printable(line, LINE) for line in text.split("\n")), markup=False)

    def heading(self, text: str) -> None:
        """Print a line in bold."""
        self._console.print(printable(text, CELL), markup=False, style="bold")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table of plain text; a cell that is too long for its column continues on the next line."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell, CELL)) for cell in row))
        self._console.print(table, soft_wrap=False)

    def answer(self, content: Mapping[str, object]) -> None:
        """Print the JSON object, with `--json`."""
        if self.json:
            # JSON is UTF-8; for another terminal, ASCII is.
            print(json_text(content, ascii_only=not is_unicode(sys.stdout)))

    @contextmanager
    def progress(self) -> Generator[Progress, None, None]:
        """Yield a progress callback: bars on standard error if that is a terminal, else a line every few seconds."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        end = (TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
        console = Console(stderr=True)
        if not console.is_terminal:
            yield _Lines().report
            return
        with Progress(*columns, *end, console=console, transient=True) as bars:
            tasks = {task.description: task.id for task in bars.tasks}

            def report(what: str, done: int, total: int, note: str = "") -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total, note=note)
                bars.update(tasks[what], completed=done, total=total, note=note)

            yield report
