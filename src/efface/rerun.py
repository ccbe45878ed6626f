"""Commands that are run again after they had finished, such as just before a kill: the same file stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from efface.errors import BadFile
from efface.files import atomic, check_writable, exists_already, sha256_of_file, temporary_for, why_not_written


def check_new_or_same(path: Path, force: bool) -> None:
    """Check that a file can be written, before long work starts; an existing one is compared after the work.

    Args:
        path: The file that `write_or_compare` writes.
        force: Whether an existing file is replaced.

    Raises:
        BadFile: The file cannot be written.
    """
    check_writable(path, force or path.is_file())


def write_or_compare(path: Path, force: bool, write: Callable[[Path], object]) -> bool:
    """Write a file, or check that it exists with the same bytes.

    Args:
        path: The file.
        force: Whether an existing file is replaced.
        write: Writes the content to the path that it receives.

    Returns:
        Whether the same file was there, so that nothing was written.

    Raises:
        BadFile: Another file is there and `force` is false, or the file cannot be written.
    """
    if force or not path.is_file():
        with atomic(path, force) as temporary:
            write(temporary)
        return False
    beside = temporary_for(path)
    try:
        write(beside)
        is_same = have_same_content(beside, path)
    except OSError as error:
        raise BadFile(f"Cannot compare {path}: {why_not_written(error)}.") from error
    finally:
        with suppress(OSError):
            beside.unlink()
    if not is_same:
        raise exists_already(path)
    return True


def have_same_content(one: Path, other: Path) -> bool:
    """Whether two files, or two folders with all files in them, have the same bytes."""
    if one.is_dir() != other.is_dir():
        return False
    if one.is_file():
        return one.stat().st_size == other.stat().st_size and sha256_of_file(one) == sha256_of_file(other)
    names = [{str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()} for root in (one, other)]
    return names[0] == names[1] and all(have_same_content(one / name, other / name) for name in names[0])
