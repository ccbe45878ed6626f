"""Files that are either whole or absent, hashes of what they hold, and where the cache lies."""

import hashlib
import os
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from efface.errors import BadFile

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 20


@contextmanager
def atomic(path: Path, force: bool = True) -> Generator[Path, None, None]:
    """Yield a temporary path beside `path`; it takes the final name only if the block succeeds.

    Its permissions are those of the file that it replaces, or of any new file, whatever the block's writer gives it.

    Args:
        path: where the file shall be.
        force: whether an existing file may be replaced.

    Raises:
        BadFile: the folder is missing, the file exists and `force` is false, or the system refuses to write.
    """
    if not path.parent.is_dir():
        raise BadFile(f"Cannot write {path}: the folder {path.parent} does not exist.")
    if path.is_dir():
        raise BadFile(f"Cannot write {path}: it is a folder; give a file name.")
    if path.exists() and not force:
        raise BadFile(f"{path} already exists; pass --force to replace it, or choose another name.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        mode = _mode(path, temporary)
        yield temporary
        if temporary.stat().st_mode != mode:
            temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(path)
    except OSError as error:
        raise BadFile(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        # An existing folder without write permission makes even the removal fail; there is then nothing to remove.
        with suppress(OSError):
            temporary.unlink()


def _mode(path: Path, temporary: Path) -> int:
    """The permissions of `path`, or those that a new file gets there."""
    with suppress(FileNotFoundError):
        return path.stat().st_mode
    # The umask can only be read by setting it, for all threads.
    temporary.touch()
    mode = temporary.stat().st_mode
    temporary.unlink()
    return mode


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def sha256_of_tensors(tensors: Mapping[str, "Tensor"]) -> str:
    """Hex digest of named tensors: names, types, shapes and bytes, whatever order or device they are in."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where efface keeps what it can make again."""
    if chosen := os.environ.get("EFFACE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "efface"


def keep_in_cache(place: Path, write: Callable[[Path], object]) -> None:
    """Write a file of the cache by `write`; a cache that cannot be written is no reason to stop."""
    with suppress(OSError, BadFile):
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic(place) as temporary:
            write(temporary)
