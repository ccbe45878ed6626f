"""Atomic writes, file names, SHA-256 hashes, and the cache folder."""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from efface.errors import FORCE, BadFile

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_CHUNK = 1 << 20
_TEMPORARY = ".{}.tmp"  # ends the names of the files that a process is writing
_LOGGER = logging.getLogger("efface")


@contextmanager
def atomic(path: Path, force: bool = True) -> Generator[Path, None, None]:
    """Yield a temporary path beside `path` and rename it to `path` if the block succeeds.

    The file gets the permissions of the file that it replaces, or those of any new file, however the block writes it.

    Args:
        path: The file to write.
        force: Whether an existing file may be replaced.

    Raises:
        BadFile: The folder is missing, the file exists and `force` is false, or the system refuses to write.
    """
    if not _is_folder(path.parent):
        raise BadFile(f"Cannot write {path}: the folder {path.parent} does not exist.")
    check_name(path)
    if path.is_dir():
        raise BadFile(f"Cannot write {path}: it is a folder; give a file name.")
    if path.exists() and not path.is_file():
        raise BadFile(f"Cannot write {path}: it is a device or a pipe, and no regular file.")
    if path.exists() and not force:
        raise exists_already(path)
    if path.name.endswith(_TEMPORARY.format(os.getpid())):  # in the block of another call, which renames the file
        yield path
        return
    temporary = temporary_for(path)
    try:
        mode = _mode(path, temporary)
        yield temporary
        if temporary.stat().st_mode != mode:
            temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(path)
    except OSError as error:
        raise BadFile(f"Cannot write {path}: {why_not_written(error)}.") from error
    finally:
        # In a folder without write permission the removal fails too; there is then nothing to remove.
        with suppress(OSError):
            temporary.unlink()


def exists_already(path: Path) -> BadFile:
    """The error of a file that would be replaced."""
    return BadFile(f"{path} already exists; pass {FORCE} to replace it, or choose another name.")


def has_surrogates(text: str) -> bool:
    """Whether a text has half of a surrogate pair, as a name that is not valid UTF-8 has."""
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


def check_name(path: Path) -> None:
    """Check that a name to write is valid UTF-8, since other names cannot be recorded, and that it is not too long.

    Raises:
        BadFile: It is not.
    """
    try:
        if b"\0" in str(path).encode():
            raise BadFile(f"Cannot write {path}: the name has a null character.")
        path.exists()
    except UnicodeEncodeError:
        raise BadFile(f"Cannot write {path}: the name is not valid UTF-8 text.") from None
    except OSError as error:
        raise BadFile(f"Cannot write {path}: {error.strerror or error}.") from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _mode(path: Path, temporary: Path) -> int:
    """The permissions of `path`, or those of a new file in its folder."""
    with suppress(FileNotFoundError):
        return path.stat().st_mode
    # The umask can only be read by setting it, for all threads.
    temporary.touch()
    mode = temporary.stat().st_mode
    temporary.unlink()
    return mode


@contextmanager
def made_folder(folder: Path) -> Generator[None, None, None]:
    """Make a folder and its parents. The folders that are still empty after a failure of the block are removed.

    Raises:
        BadFile: The folder cannot be made.
    """
    check_name(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"Cannot make the folder {folder}: {why_not_written(error)}.") from error
    try:
        yield
    except BaseException:
        with suppress(OSError):  # a folder with content stays
            for path in missing:
                path.rmdir()
        raise


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Lock an existing folder while its files are written, so that no second process or thread writes to it.

    The lock is the kernel's: it ends with the process, however that ends, and needs no file.

    Raises:
        BadFile: Another run writes to the folder.
    """
    if fcntl is None:
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason = f"Another run of efface writes to {folder}; wait until it ends, or choose another -o."
            raise BadFile(reason) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(number)


class _WritableError(Exception):
    """Ends a successful trial of writing."""


def check_suffix(path: Path, suffix: str) -> None:
    """Check that the name of a file to write ends as files of its format do, since other tools go by the name.

    Raises:
        BadFile: It ends in another way.
    """
    # A folder without a name, such as ".", is refused when it is written.
    if path.name and path.suffix.lower() != suffix:
        raise BadFile(f"{path} would be a {suffix} file under another name; name it {path.with_suffix(suffix).name}.")


def why_not_written(error: OSError) -> str:
    """Why a file or folder cannot be written, in words that name what to change."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "a file has the name of a folder on this path; choose another name"
    return error.strerror or str(error)


def check_writable(path: Path, force: bool) -> None:
    """Check that a file can be written, before long work starts.

    Args:
        path: The file to write later.
        force: Whether an existing file may be replaced.

    Raises:
        BadFile: The file cannot be written, or it exists and `force` is false.
    """
    remove_leftovers(path)
    # The exception makes `atomic` remove the temporary file.
    with suppress(_WritableError), atomic(path, force) as temporary:
        temporary.touch()
        raise _WritableError


def temporary_for(path: Path) -> Path:
    """The name beside `path` under which this process writes it."""
    return path.with_name(f".{path.name}{_TEMPORARY.format(os.getpid())}")


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` have left beside it.

    A folder that such a process was replacing is first put back to its place, if that is empty.

    Args:
        path: The file or folder.
    """
    with suppress(OSError):
        for left in sorted(path.parent.glob(f".{glob.escape(path.name)}.*")):
            owner, _, kind = left.name[len(path.name) + 2 :].partition(".")
            if kind not in ("tmp", "old") or not owner.isdecimal() or _is_running(int(owner)):
                continue
            if kind == "old" and not path.exists():
                left.rename(path)
            else:
                remove(left)


def remove_partial(folder: Path, below: bool = False) -> None:
    """Remove the partial files and folders of killed processes in a folder, and the partial files `below` it."""
    with suppress(OSError):
        for left in sorted(folder.rglob(".*.tmp") if below else folder.glob(".*.tmp")):
            name, _, owner = left.name[1:-4].rpartition(".")
            is_ours = left.parent == folder or not left.is_dir()
            if name and is_ours and owner.isdecimal() and not _is_running(int(owner)):
                remove(left)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Whether a process runs; unknown ones count as running."""
    try:
        if os.name == "posix":
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def read_text(path: Path, what: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        BadFile: The file cannot be read as text; the message names `what` was to be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise BadFile(f"Cannot read {what} from {path}: {reason}.") from error


def slug(text: str, limit: int = 60) -> str:
    """A file name from any text: letters, digits and hyphens, never a path."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return words[:limit].rstrip("-") or "concept"


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest of named tensors of any shape: names, types, shapes and bytes, independent of order and device."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """The folder for files that efface can compute again: `EFFACE_CACHE`, or a folder in the user's cache."""
    if chosen := os.environ.get("EFFACE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "efface"


def keep_in_cache(place: Path, write: Callable[[Path], object]) -> None:
    """Write a file of the cache, with its SHA-256 in a file beside it.

    A failure to write is ignored, since the cache is optional.

    Args:
        place: The file in the cache.
        write: Writes the content to the path that it receives.
    """
    with suppress(OSError, BadFile):
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place)
        with atomic(place) as temporary:
            write(temporary)
            digest = sha256_of_file(temporary)
        with atomic(_digest_file(place)) as temporary:
            temporary.write_text(digest, encoding="ascii")


def from_cache(place: Path) -> Path | None:
    """The file if it is as `keep_in_cache` wrote it; None if it is missing, or changed, which the log reports."""
    try:
        expected = _digest_file(place).read_text(encoding="ascii", errors="replace")
        if place.is_file() and sha256_of_file(place) == expected:
            return place
    except OSError:
        return None
    if place.is_file():
        _LOGGER.info("%s in the cache is damaged, and is computed again.", place.name)
    return None


def _digest_file(place: Path) -> Path:
    return place.with_name(f"{place.name}.sha256")


def public_name(name: str) -> str:
    """A model's or file's name for files that are shared: a local path without its folders; other names as they are."""
    path = Path(name)
    try:
        is_local = path.is_absolute() or name.startswith(("./", "../", "~")) or path.exists()
    except (OSError, ValueError):  # a text that cannot be a path
        is_local = False
    return (path.name or name) if is_local else name
