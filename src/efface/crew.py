"""The processes of one run: `--workers` and `--gpus` start the same command again in helper processes.

Each process is a worker of `efface.workers`. Workers on the CPU share its cores; each GPU has one worker.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from efface.errors import BadFile, BadInput
from efface.files import why_not_written
from efface.workers import HELPER, Worker

_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


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


def refuse_several(workers: int | None, gpus: str | None, option: str) -> None:
    """Refuse several processes for work that each of them would do completely.

    Args:
        workers: The number that the user gives (`--workers`).
        gpus: The GPUs (`--gpus`).
        option: The option whose work several processes share.

    Raises:
        BadInput: An option asks for several processes, or a launcher has started several.
    """
    if workers is not None or gpus is not None or Worker.current().count > 1:
        raise BadInput(f"Several processes (--workers, --gpus, a launcher) need {option}; give it, or use one process.")


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

    @contextmanager
    def started(self, folder: Path) -> Generator[None, None, None]:
        """Start the helpers, so that they open the model at the same time as this process, in the body of the `with`.

        If the body fails, the helpers are stopped, and the files and folders that this made are removed.

        Args:
            folder: The folder for the output of the helpers, created if it is missing.

        Raises:
            BadFile: The folder cannot be written.
        """
        logs = [folder / f"worker-{rank}.log" for rank, _ in enumerate(self._environments, 1)]
        made = [path for path in (*logs, folder, *folder.parents) if logs and not path.exists()]
        try:
            for log, changes in zip(logs, self._environments, strict=True):
                self._start(log, {**os.environ, **changes})
            yield
        except BaseException:
            self.stop()
            for path in made:
                with suppress(OSError):  # a folder with finished items remains
                    path.rmdir() if path.is_dir() else path.unlink()
            raise

    def _start(self, log: Path, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "efface", *self._arguments]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("ab")
        except OSError as error:
            raise BadFile(f"Cannot write logs to {log.parent}: {why_not_written(error)}.") from error
        with output:
            self._processes.append(
                subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
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
    if HELPER in os.environ:
        yield Crew(Worker.current())
        return
    count, devices = worker_count(workers, gpus)
    worker = Worker.current()
    if count > 1 or devices:
        worker = Worker(0, count, worker.started)
        shared = {"OMP_NUM_THREADS": str(_threads(count))}
        places = [f"{rank}/{count}/{worker.started}/{os.getpid()}" for rank in range(count)]
        changes = [{HELPER: places[rank], **shared, **_device(devices, rank)} for rank in range(1, count)]
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
