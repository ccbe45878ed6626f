"""One reader under attack: its valid files, the mutations of their bytes, and the outcome of a malformed file."""

from __future__ import annotations

import io
import os
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface.errors import BadInput

#: Takes the content of a valid file and a random generator, and returns another content.
Mutation = Callable[[bytes, random.Random], bytes]

SECONDS, BYTES = 5.0, 1 << 30
_NO_MEMORY = "does not fit in memory"


class SlowError(BaseException):
    """The limit of processor time for one input."""


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of file.

    Attributes:
        name: The reader in words.
        files: Writes valid files into a folder and returns them. Each is in a folder with all that is read with it.
        mutations: The mutations of their bytes.
        read: Reads one file; what it returns decides whether two readings are equal.
        sealed: The mutations that the format detects, for example by a checksum: a file that they changed must be
            rejected or read as the same.
        share: The share of inputs, relative to the other readers.
    """

    name: str
    files: Callable[[Path], list[Path]]
    mutations: tuple[Mutation, ...]
    read: Callable[[Path], object]
    sealed: Collection[Mutation] = field(default_factory=tuple[Mutation, ...])
    share: float = 1.0


class Bench:
    """A reader with its valid files.

    Args:
        reader: The reader.
        folder: A new folder for its files.
    """

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader, self._folder = reader, folder
        self._valid = folder / "valid"
        self._valid.mkdir(parents=True)
        self._files = [path.relative_to(self._valid) for path in reader.files(self._valid)]
        self._expected = [repr(self._read(number, None)) for number in range(len(self._files))]

    def _read(self, number: int, content: bytes | None) -> object:
        """Read a valid file, or another content in its place."""
        file = self._files[number]
        copy = self._folder / f"read-{os.getpid()}"
        # Hard links: readers replace files and never write into one.
        shutil.copytree(self._valid / file.parts[0], copy / file.parts[0], copy_function=os.link)
        try:
            path = copy / file
            if content is not None:
                path.unlink()
                path.write_bytes(content)
            return self.reader.read(path)
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def outcome(self, index: int) -> str:
        """Read one malformed file: "read", "rejected", or the defect in words.

        Args:
            index: The number of the input, which with the reader's name determines the file.
        """
        draw = random.Random(f"{self.reader.name} {index}")
        number, mutation = draw.randrange(len(self._files)), draw.choice(self.reader.mutations)
        content = mutation((self._valid / self._files[number]).read_bytes(), draw)
        used, started = _memory(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            result = repr(self._read(number, content))
            changed = mutation in self.reader.sealed and result != self._expected[number]
            outcome = "read as something else" if changed else "read"
        except BadInput as error:
            outcome = _of_message(str(error))
        except SlowError:
            outcome = "more than 5 s"
        except BaseException as error:
            if os.environ.get("EFFACE_DEBUG"):
                raise
            outcome = f"{type(error).__name__}: {str(error)[:80]!r} in {_place(error)}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if (bytes_used := _memory() - used) > BYTES:
            return f"{bytes_used >> 20} MiB ({outcome})"
        if time.process_time() - started > SECONDS + 1 and outcome in ("read", "rejected"):
            return "more than 5 s"
        return outcome


def _of_message(message: str) -> str:
    # Memory beyond the limit of the process is beyond the limit of a reader.
    return "more than 1 GB, rejected by the system" if _NO_MEMORY in message else "rejected"


def _place(error: BaseException) -> str:
    """The innermost function of efface that an exception passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/src/efface/" in frame.filename]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.name}"


def _memory() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def written(name: str, *contents: str | bytes) -> Callable[[Path], list[Path]]:
    """Files with these contents and one name, each in another folder."""

    def write(folder: Path) -> list[Path]:
        paths: list[Path] = []
        for index, content in enumerate(contents):
            path = folder / str(index) / name
            path.parent.mkdir(parents=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            paths.append(path)
        return paths

    return write


def bytes_of(save: Callable[[Any], object]) -> bytes:
    """What a function writes to a file."""
    file = io.BytesIO()
    save(file)
    return file.getvalue()
