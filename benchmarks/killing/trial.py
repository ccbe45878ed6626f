"""One output folder, in which a command runs, is interrupted, and runs again until it is done."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from killing.cases import Case

#: What is interrupted, and by which signal: one worker, the process that the user started, or all of them.
SIGNALS = {
    "worker": signal.SIGKILL,
    "parent": signal.SIGKILL,
    "all": signal.SIGKILL,
    "SIGINT": signal.SIGINT,
    "SIGTERM": signal.SIGTERM,
}
_MOST = 6  # interruptions of one trial
_PATIENCE = 120.0  # seconds after which a process that does not end is a defect
_ALLOWED = (0, 2, 130, -signal.SIGKILL, -signal.SIGTERM)


@dataclass
class Outcome:
    """What is counted in one trial.

    Attributes:
        kills: The interruptions that met a running command, or the runs that found the disk full.
        twice: Finished items that were written again.
        defects: What is wrong, in words.
    """

    kills: int = 0
    twice: int = 0
    defects: list[str] = field(default_factory=list[str])


class Trial:
    """A command in a new folder.

    Args:
        case: The command.
        inputs: The folder of the inputs.
        folder: The new folder, for the output, the cache and temporary files.
    """

    def __init__(self, case: Case, inputs: Path, folder: Path) -> None:
        self.case, self.folder, self._inputs = case, folder, inputs
        self._log = folder.with_name(f"{folder.name}.log")
        self._written: dict[Path, int] = {}
        for name in ("out", "cache", "tmp"):
            (folder / name).mkdir(parents=True)
        if case.copied:
            shutil.copytree(inputs / case.copied, folder / "out", dirs_exist_ok=True)

    @property
    def output(self) -> str:
        """What the last run printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> int:
        """Start the command in a new group of processes, and return the number of its first process."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                self._run()
            finally:
                os._exit(99)
        return child

    def _run(self) -> None:
        """The child: run the command with its output in a file, and end without cleaning up."""
        from efface.cli.run import run

        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
        os.environ |= {"EFFACE_CACHE": str(self.folder / "cache"), "TMPDIR": str(self.folder / "tmp")}
        tempfile.tempdir = None
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        try:
            os._exit(run(self.case.arguments(self._inputs, self.folder / "out")))
        except KeyboardInterrupt:  # after the command
            os._exit(130)

    def end(self, process: int) -> int | None:
        """Wait for all processes of a command, and return the exit code of the first; None if one does not end."""
        deadline, code = time.monotonic() + _PATIENCE, None
        while time.monotonic() < deadline:
            if code is None and (ended := os.waitpid(process, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(ended[1])
            if code is not None and not group(process):
                return code
            time.sleep(0.01)
        for each in group(process):
            os.kill(each, signal.SIGKILL)
        return None

    def items(self) -> dict[Path, int]:
        """The finished items with the moments at which they were written."""
        return {path: path.stat().st_mtime_ns for path in (self.folder / "out").glob(self.case.items)}

    @contextmanager
    def counting(self, outcome: Outcome) -> Generator[None, None, None]:
        """Count the items that the block writes again, although they were finished before it."""
        before = self.items()
        yield
        after = self.items()
        outcome.twice += sum(after.get(path) != moment for path, moment in before.items())

    def interrupt(self, kind: str, after: float, outcome: Outcome) -> None:
        """Run the command and interrupt it.

        Args:
            kind: A key of `SIGNALS`.
            after: Seconds after the start.
            outcome: What is counted.
        """
        with self.counting(outcome):
            process = self.start()
            time.sleep(after)
            struck = _strike(process, kind)
            code = self.end(process)
        outcome.kills += struck
        if code is None:
            outcome.defects.append("a process did not end")
        elif code not in (_ALLOWED if struck else (0, 2)) or "Traceback" in self.output:
            outcome.defects.append(f"ended with {code}: {self.output[-300:]}")

    def complete(self, outcome: Outcome) -> None:
        """Run the command to its end."""
        with self.counting(outcome):
            code = self.end(self.start())
        if code != 0 and not (code == 2 and "already" in self.output):
            outcome.defects.append(f"the last run ended with {code}: {self.output[-300:]}")


def interrupted(trial: Trial, kind: str, takes: float, draw: random.Random) -> Outcome:
    """Interrupt a trial a few times, then run it to its end.

    Args:
        trial: The trial.
        kind: A key of `SIGNALS`.
        takes: Seconds that the command takes.
        draw: The source of the moments.
    """
    outcome = Outcome()
    for _ in range(draw.randint(1, _MOST)):
        trial.interrupt(kind, takes * draw.random(), outcome)
    trial.complete(outcome)
    return outcome


def group(process: int) -> list[int]:
    """The processes of a command that still run, the first one before its helpers."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == process and fields[0] != "Z":
            found.append(int(path.parent.name))
    return sorted(found, key=lambda number: number != process)


def _strike(process: int, kind: str) -> bool:
    """Send a signal to a part of a command, and return whether it ran.

    SIGINT goes to all processes, as a terminal sends Ctrl-C.
    """
    running = group(process)
    if not running or running[0] != process or (kind == "worker" and len(running) < 2):
        return False
    for number in {"worker": running[1:2], "all": running, "SIGINT": running}.get(kind, running[:1]):
        os.kill(number, SIGNALS[kind])
    return True
