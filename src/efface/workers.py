"""Work that several processes share, without a server: each process runs the same loop over the same items.

A worker claims an item by `flock` on the item's log file. The kernel releases the lock when the process ends, however
it ends, so a killed worker leaves no stale lock, which a file with a process id would. The lock also holds between
hosts that share a file system with `flock` (NFS 4, or Lustre mounted with `flock`).

An item is finished when its output exists, so a second run computes only what is missing. A failed item is not tried
again by the same run: the last line of its log has the time of the failure, and a run knows when it was started.

`--workers` and `--gpus` start the same command again in helper processes (`efface.crew`). Under a launcher (`accelerate
launch`, `torchrun`), each launched process is one worker. Another scheduler can run the same loop: it starts any number
of processes with one shared output folder.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO

from efface.errors import BadFile, BadInput
from efface.files import slug, why_not_written
from efface.progress import Progress

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

#: The folder of logs in the output folder.
LOGS = "logs"
#: The environment variable that describes a helper's place.
HELPER = "EFFACE_WORKER"  # "rank/count/start/parent" of a helper
_FAILED = "FAILED "
_PAUSE = 0.1  # seconds until a worker looks again whether the items of others are finished


@dataclass(frozen=True)
class Worker:
    """The place of this process among the workers of one run.

    Attributes:
        rank: The number of the worker; worker 0 prints the result.
        count: The number of workers.
        started: When the run was started, in seconds since the epoch.
        parent: The process that started this helper; None for a process that no other worker started.
    """

    rank: int = 0
    count: int = 1
    started: float = field(default_factory=time.time)
    parent: int | None = None

    @classmethod
    def current(cls) -> Worker:
        """This process, as its environment describes it."""
        if text := os.environ.get(HELPER):
            rank, count, started, parent = text.split("/")
            return cls(int(rank), int(count), float(started), int(parent))
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @property
    def orphaned(self) -> bool:
        """Whether the process that started this helper has ended."""
        return self.parent is not None and os.getppid() != self.parent


def share_items(
    folder: Path,
    items: Sequence[str],
    is_done: Callable[[str], bool],
    do: Callable[[str], None],
    *,
    worker: Worker,
    what: str = "items",
    progress: Progress | None = None,
) -> dict[str, str]:
    """Compute the items that are missing, together with all processes that call this with the same folder.

    The call ends when every item is finished or has failed, whichever process computed it. If another process is
    killed, its item is computed here.

    Args:
        folder: The folder of the logs, one per item and one per worker.
        items: Distinct names of the items.
        is_done: Whether the output of an item exists.
        do: Computes an item. Any exception is a failure of this item alone.
        worker: This process.
        what: The name of the work for the progress callback.
        progress: The progress callback; it covers the items of all workers.

    Returns:
        The error of each failed item, by name.
    """
    if fcntl is None and worker.count > 1:
        raise BadInput("Several workers need file locks, which this system does not have; use one.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = (folder / f"worker-{worker.rank}.log").open("a", encoding="utf-8")
    except OSError as error:
        raise BadFile(f"Cannot write logs to {folder}: {why_not_written(error)}.") from error
    failures: dict[str, str] = {}
    pending, logs = list(items), _log_names(items)
    with log, _stopped_by_sigterm():
        while pending and not worker.orphaned:
            waiting: list[str] = []
            for index, item in enumerate(pending):
                if worker.orphaned:
                    break
                outcome = "" if is_done(item) else _attempt(folder / logs[item], item, is_done, do, worker, log)
                if outcome is None:
                    waiting.append(item)
                elif outcome:
                    failures[item] = outcome
                waiting = [name for name in waiting if not is_done(name)]
                if progress:
                    progress(what, len(items) - len(waiting) - len(pending) + index + 1, len(items))
            if len(waiting) == len(pending):
                time.sleep(_PAUSE)
            pending = waiting
    return {item: failures[item] for item in items if item in failures}


def _attempt(
    path: Path,
    item: str,
    is_done: Callable[[str], bool],
    do: Callable[[str], None],
    worker: Worker,
    log: IO[str],
) -> str | None:
    """Claim and compute one item.

    Returns:
        An empty text if it is finished, the error if it failed in this run, and None if another process computes it.
    """
    with path.open("a+", encoding="utf-8") as own:
        try:
            if fcntl is not None:
                fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if is_done(item):
            return ""
        if failure := _failure(own, worker.started):
            return failure
        started = time.perf_counter()
        _write(f"worker {worker.rank} starts {item}", own, log)
        try:
            do(item)
        except Exception as error:
            message = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, BadInput):
                message = f"{type(error).__name__}: {message}"
                _write(traceback.format_exc(), own)
            _write(f"worker {worker.rank} failed at {item}: {message}", log)
            own.write(f"{_FAILED}{time.time()} {message}\n")
            return message
        _write(f"worker {worker.rank} finished {item} in {time.perf_counter() - started:.1f} s", own, log)
        return ""


def _log_names(items: Sequence[str]) -> dict[str, str]:
    """The file name of each item's log: its words in ASCII, with a hash if another item has the same words."""
    words = Counter(slug(item, 120) for item in items)
    names = {item: slug(item, 120) for item in items}
    ends = {item: f"-{sha256(item.encode()).hexdigest()[:8]}" if words[names[item]] > 1 else "" for item in items}
    return {item: f"{names[item]}{ends[item]}.log" for item in items}


def _failure(log: IO[str], since: float) -> str | None:
    """The error on the last line of a log, if the item failed since the run was started."""
    log.seek(0)
    last = (log.read().splitlines() or [""])[-1]
    if not last.startswith(_FAILED):
        return None
    moment, _, message = last.removeprefix(_FAILED).partition(" ")
    return message if float(moment) >= since else None


def _write(line: str, *files: IO[str]) -> None:
    for file in files:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        file.flush()


@contextmanager
def _stopped_by_sigterm() -> Generator[None, None, None]:
    """Treat SIGTERM like Ctrl-C, so that computed output is written before the process ends."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
