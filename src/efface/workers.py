"""Work that several processes share, without a server: each process runs the same loop over the same items.

A worker claims an item by `flock` on the item's log file. The kernel releases the lock when the process ends, however
it ends, so a killed worker leaves no stale lock, which a file with a process id would. The lock also holds between
hosts that share a file system with `flock` (NFS 4, or Lustre mounted with `flock`).

An item is finished when its output exists, so a second run computes only what is missing. A failed item is not tried
again by the same run: the last line of its log has the time of the failure, and a run knows when it was started.

`--workers` and `--gpus` start the same command again in helper processes (`crew`). Under a launcher (`accelerate
launch`, `torchrun`), each launched process is one worker. Another scheduler can run the same loop: it starts any number
of processes with one shared output folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from efface.errors import BadFile, BadInput
from efface.files import slug
from efface.progress import Progress

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

#: The folder of logs in the output folder.
LOGS = "logs"
_WORKER = "EFFACE_WORKER"  # "rank/count/start/parent" of a helper
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
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
        if text := os.environ.get(_WORKER):
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
        items: Names of the items, distinct as file names.
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
        raise BadFile(f"Cannot write logs to {folder}: {error.strerror}.") from error
    failures: dict[str, str] = {}
    pending = list(items)
    with log, _stopped_by_sigterm():
        while pending and not worker.orphaned:
            waiting: list[str] = []
            for index, item in enumerate(pending):
                if worker.orphaned:
                    break
                outcome = "" if is_done(item) else _attempt(folder, item, is_done, do, worker, log)
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
    folder: Path,
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
    with (folder / f"{slug(item, 120)}.log").open("a+", encoding="utf-8") as own:
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


def worker_count(workers: int | None, gpus: str | None) -> tuple[int, list[str]]:
    """The number of workers, and the GPU of each as CUDA_VISIBLE_DEVICES names it.

    Args:
        workers: The number that the user gives (`--workers`).
        gpus: Numbers of GPUs, separated by commas (`--gpus`); they count the devices of CUDA_VISIBLE_DEVICES, if that
            is set.

    Returns:
        The number of workers, 1 by default, and the GPUs, which are empty for workers on the CPU.

    Raises:
        BadInput: A number cannot be used, both are given, or a launcher has already started the workers.
    """
    if workers is None and gpus is None:
        return 1, []
    if "WORLD_SIZE" in os.environ:
        raise BadInput("A launcher has started the workers; leave out --workers and --gpus.")
    if gpus is None:
        return workers or 1, []
    if workers is not None:
        raise BadInput("Give --workers or --gpus, not both: each GPU has one worker.")
    words = [word.strip() for word in gpus.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise BadInput(f"--gpus {gpus}: write distinct numbers of GPUs separated by commas, e.g. --gpus 0,1.")
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    for word in words:
        if int(word) >= len(names):
            raise BadInput(f"There is no GPU {word} here; there are {len(names)}, counted from 0.")
    return len(words), [names[int(word)] for word in words]


class Crew:
    """The processes of one run: this one, and the helpers that it starts.

    Attributes:
        worker: This process's place among the workers.

    Args:
        worker: This process's place among the workers.
        arguments: The command line that the helpers run, without the program's name.
        environments: The changes of the environment of each helper.
    """

    def __init__(
        self, worker: Worker, arguments: Sequence[str] = (), environments: Sequence[Mapping[str, str]] = ()
    ) -> None:
        self.worker = worker
        self._arguments, self._environments = arguments, environments
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, folder: Path) -> None:
        """Start the helpers. Their output goes to `folder`, which is created if it is missing."""
        command = [sys.executable, "-m", "efface", *self._arguments]
        for rank, changes in enumerate(self._environments, 1):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"worker-{rank}.log").open("ab") as log:
                environment = {**os.environ, **changes}
                self._processes.append(
                    subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                )

    def wait(self) -> None:
        """Wait until the helpers have ended, which they do when no item is left."""
        for process in self._processes:
            process.wait()

    def stop(self) -> None:
        """Stop the helpers that still run; each writes what it has computed."""
        for process in self._processes:
            process.terminate()
        self.wait()


@contextmanager
def crew(arguments: Sequence[str], workers: int | None, gpus: str | None) -> Generator[Crew, None, None]:
    """Prepare this process to be a worker, with its share of the cores or its GPU.

    In a helper, and in a process of a launcher, the crew has no helpers. If this process is interrupted or fails, its
    helpers are stopped.

    Args:
        arguments: The command line, without the program's name.
        workers: The number of workers (`--workers`).
        gpus: The GPUs (`--gpus`).

    Yields:
        The crew, whose helpers are not started yet.

    Raises:
        BadInput: The number of workers or a GPU cannot be used.
    """
    if _WORKER in os.environ:
        yield Crew(Worker.current())
        return
    count, devices = worker_count(workers, gpus)
    worker = Worker.current()
    if count > 1 or devices:
        worker = Worker(0, count, worker.started)
        shared = {"OMP_NUM_THREADS": str(_threads(count))}
        places = [f"{rank}/{count}/{worker.started}/{os.getpid()}" for rank in range(count)]
        changes = [{_WORKER: places[rank], **shared, **_device(devices, rank)} for rank in range(1, count)]
        own: Mapping[str, str | None] = {**shared, **_device(devices, 0)}
    else:
        changes, own = [], _alone(worker)
    members = Crew(worker, arguments, changes)
    with _environment(own), _torch_threads(own.get("OMP_NUM_THREADS")):
        try:
            yield members
            members.wait()
        finally:
            members.stop()


def _threads(count: int) -> int:
    """The threads of each worker on a CPU: an equal share of the cores, or fewer if the user limits them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share_of_one = max(1, cores // count)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share_of_one, int(limit)) if limit.isdecimal() and int(limit) else share_of_one


@contextmanager
def _torch_threads(number: str | None) -> Generator[None, None, None]:
    """Change the number of threads of torch, which reads OMP_NUM_THREADS only when it is imported."""
    if number is None or "torch" not in sys.modules:
        yield
        return
    torch = sys.modules["torch"]
    before = torch.get_num_threads()
    torch.set_num_threads(int(number))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(devices: Sequence[str], rank: int) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": devices[rank]} if devices else {}


def _alone(worker: Worker) -> dict[str, str | None]:
    """The environment of a launched process that computes its items alone: its GPU, and no group of processes."""
    if "WORLD_SIZE" not in os.environ:
        return {}
    changes: dict[str, str | None] = dict.fromkeys(_LAUNCHER)
    local, visible = int(os.environ.get("LOCAL_RANK", worker.rank)), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible is not None else None
    if names is None or len(names) > 1:
        changes["CUDA_VISIBLE_DEVICES"] = str(local) if names is None else names[local % len(names)]
    return changes


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Generator[None, None, None]:
    """Change environment variables, None removes one, and restore them at the end."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
