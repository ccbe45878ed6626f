"""Folders of images with `metadata.jsonl`, as Hugging Face `datasets` reads them (ImageFolder), and the image cache.

Each row has the settings of its image and a hash of them, the key. A row is written after its picture is complete on
disk, so a folder of an interrupted run has only finished rows, and the next run makes the rest. Images that could not
be made are rows of `errors.jsonl`, since ImageFolder requires a file for every row.

The cache stores images of the unedited model by their keys, so that no image is made twice by two evaluations. It is in
the folder that the environment variable `EFFACE_CACHE` names, else in the user's cache folder.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from PIL import Image as Picture

from efface.errors import BadFile
from efface.files import (
    atomic,
    cache_folder,
    from_cache,
    has_surrogates,
    keep_in_cache,
    locked,
    remove_partial,
    sha256_of_file,
    why_not_written,
)
from efface.generation.rows import Row, is_own, line_of, read_image_rows, write_rows
from efface.image_files import Pixels, is_picture, read_picture
from efface.parsing import library_errors

_LOGGER = logging.getLogger("efface")
METADATA, ERRORS = "metadata.jsonl", "errors.jsonl"
_PENDING = 64


@dataclass(frozen=True)
class Image:
    """One image, in a folder or in memory.

    Attributes:
        row: The metadata. In a folder without metadata, only `file_name`.
        path: The file. `None` for an image in memory, and for one that could not be generated.
        error: The reason why it could not be generated.
        array: The pixels of an image in memory, of shape (H, W, 3).
    """

    row: Row
    path: Path | None
    error: str | None = None
    array: Pixels | None = field(default=None, compare=False, repr=False)

    def pixels(self) -> Pixels:
        """The picture, of shape (H, W, 3).

        Raises:
            OSError: There is no picture, or its file is damaged.
        """
        if self.array is not None:
            return self.array
        if self.path is None:
            raise OSError(self.error or "there is no picture")
        return read_picture(self.path)


def write_picture(path: Path, pixels: Pixels) -> None:
    """Write a picture of shape (H, W, 3) as PNG."""
    Picture.fromarray(pixels).save(path, format="PNG", compress_level=4)


def read_folder(path: Path) -> list[Image]:
    """Read the images of a folder: those of its metadata, or without metadata all picture files, sorted by name.

    Raises:
        BadFile: There is no such folder, it has no picture, or its metadata names a file outside of it.
    """
    if not path.is_dir():
        raise BadFile(f"Cannot read images from {path}: it is not a folder.")
    rows = read_image_rows(path / METADATA)
    for row in rows:
        with library_errors(f"Cannot read {path / METADATA}"):  # a name can be too long, or have a null character
            is_inside = (path / row["file_name"]).resolve().is_relative_to(path.resolve())
        if not is_inside:
            raise BadFile(f"{path / METADATA} names {row['file_name']!r}, which is not a file in its folder.")
    if not rows:
        rows = [{"file_name": f.name} for f in sorted(path.iterdir()) if is_picture(f)]
        for row in rows:
            if has_surrogates(row["file_name"]):
                raise BadFile(f"{path} has a picture whose name is not valid UTF-8: {row['file_name']}; rename it.")
    # A run that was killed while it replaced a changed image leaves two rows of one image.
    rows = list({(row["file_name"], row.get("key")): row for row in rows}.values())
    images = [Image(row, path / row["file_name"]) for row in rows]
    images += [Image(row, None, str(row.get("error"))) for row in read_image_rows(path / ERRORS)]
    if not images:
        raise BadFile(f"{path} has no images; use a folder of pictures, or one that `efface generate` wrote.")
    return images


def skipped_files(path: Path, images: Iterable[Image]) -> tuple[str, ...]:
    """The files of a folder, and of folders in which images are, that are not among its images.

    Args:
        path: The folder.
        images: Its images.
    """
    read = {image.path for image in images if image.path}
    folders = sorted({path, *(file.parent for file in read)})
    files = (file for folder in folders for file in sorted(folder.iterdir()) if file.is_file())
    metadata_files = (METADATA, ERRORS)
    return tuple(
        str(file.relative_to(path))
        for file in files
        if file not in read and file.name not in metadata_files and file.name[0] != "."
    )


def read_folders(path: Path) -> list[Image]:
    """Read the images of a folder as `read_folder` does, and of all folders below it that have images.

    The file name of an image is its path below `path`. Metadata of two folders may name one file, which counts once.

    Raises:
        BadFile: There is no such folder, no folder has an image, or metadata names a file outside of its folder.
    """
    below = [folder for folder in sorted(path.rglob("*")) if folder.is_dir() and has_images(folder)]
    images = {image.row["file_name"]: image for image in (read_folder(path) if not below or has_images(path) else ())}
    for folder in below:
        for image in read_folder(folder):
            name = str(folder.relative_to(path) / str(image.row["file_name"]))
            images.setdefault(name, replace(image, row={**image.row, "file_name": name}))
    return list(images.values())


def has_images(folder: Path) -> bool:
    """Whether a folder has pictures or their metadata."""
    return any(file.name in (METADATA, ERRORS) or is_picture(file) for file in folder.iterdir())


def file_name(prompt: str, seed: int, key: str) -> str:
    """A readable file name, which is never a path, whatever the prompt.

    Args:
        prompt: The prompt of the image.
        seed: Its seed.
        key: Its key.
    """
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48].strip("-")
    return f"{words or 'image'}-{seed}-{key[:10]}.png"


def folder_name(name: str) -> str:
    """The name of an eraser's folder: no separators, no leading dot."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip(".-") or "eraser"


class FolderWriter:
    """Writes images to a folder in a background thread; use it as a context manager.

    Attributes:
        rows: The finished rows by key, in the order in which they were finished.
        errors: The rows of images that could not be made, now or in an earlier run.

    Args:
        path: The folder, created if it is missing. It must be empty or an image folder.

    Raises:
        BadFile: The folder cannot be written, has other content, or another run writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, ExitStack()
        try:
            self._open(path)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locked(path))
            if not (path / METADATA).exists() and any(path.iterdir()):
                raise BadFile(f"{path} is not empty and not a folder of images; choose another folder.")
            (path / METADATA).touch()
            remove_partial(path)
        except OSError as error:
            raise BadFile(f"Cannot write images to {path}: {why_not_written(error)}.") from error
        rows = [row for row in read_image_rows(path / METADATA) if is_own(row)]
        self.rows: dict[str, Row] = {row["key"]: row for row in rows if self._is_whole(row)}
        self.errors: dict[str, Row] = {r["key"]: r for r in read_image_rows(path / ERRORS) if is_own(r)}
        if (content := (path / METADATA).read_bytes()) and not content.endswith(b"\n"):
            write_rows(path / METADATA, self.rows.values())  # the next row must not continue a partial line
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            # Also after Ctrl-C, so that no computed image is lost.
            self._writer.shutdown(wait=True)
            if kind is None:
                self.settle()

    def add(self, row: Row, pixels: Pixels) -> None:
        """Queue a picture of shape (H, W, 3) and its row. An earlier error of the background thread is raised here."""
        self._settle(_PENDING)
        self._pending.append(self._writer.submit(self._write, row, pixels))

    def fail(self, row: Row, error: str) -> None:
        """Record that an image could not be made."""
        self.errors[row["key"]] = {**row, "error": error}

    def settle(self) -> None:
        """Wait until every queued picture is on disk."""
        self._settle(0)

    def finish(self, order: Iterable[str]) -> None:
        """Rewrite the metadata: these keys in their order, then all others by prompt, seed and file name.

        The order depends only on the keys and on the images, so that a resumed run ends like an uninterrupted one.
        """
        self.settle()
        first = list(order)
        write_rows(self.path / METADATA, _ordered(self.rows, first))
        if failed := {key: row for key, row in self.errors.items() if key not in self.rows}:
            write_rows(self.path / ERRORS, _ordered(failed, first))
        else:
            (self.path / ERRORS).unlink(missing_ok=True)

    def image(self, key: str) -> Image:
        """The image of this key, which was added or failed."""
        if key in self.rows:
            return Image(self.rows[key], self.path / self.rows[key]["file_name"])
        return Image(self.errors[key], None, self.errors[key]["error"])

    def _write(self, row: Row, pixels: Pixels) -> None:
        with atomic(self.path / row["file_name"]) as temporary:
            write_picture(temporary, pixels)
            row = {**row, "sha256": sha256_of_file(temporary)}
        with (self.path / METADATA).open("a", encoding="utf-8") as file:
            file.write(line_of(row))
        self.rows[row["key"]] = row

    def _settle(self, allowed: int) -> None:
        """Wait until at most `allowed` pictures are queued."""
        while len(self._pending) > allowed:
            self._pending.pop(0).result()

    def _is_whole(self, row: Row) -> bool:
        """Whether the picture of a row is on disk as it was written; a changed one is made again."""
        path = self.path / row["file_name"]
        try:
            if "sha256" not in row:
                read_picture(path)
            elif sha256_of_file(path) != row["sha256"]:
                _LOGGER.info("%s was changed after it was generated, and is generated again.", path)
                return False
        except OSError:
            return False
        return True


def _ordered(rows: Mapping[str, Row], first: Iterable[str]) -> list[Row]:
    """Rows by key in the order of `FolderWriter.finish`."""
    wanted = {key: rows[key] for key in first if key in rows}
    others = (row for key, row in rows.items() if key not in wanted)
    return [*wanted.values(), *sorted(others, key=lambda row: (row["prompt"], row["seed"], row["file_name"]))]


class MemoryWriter:
    """Collects images in memory, with the interface of `FolderWriter`.

    Attributes:
        rows: The rows by key.
        errors: The rows of images that could not be made.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.errors: dict[str, Row] = {}
        self._arrays: dict[str, Pixels] = {}

    def __enter__(self) -> MemoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def add(self, row: Row, pixels: Pixels) -> None:
        """Store a picture of shape (H, W, 3) and its row."""
        self.rows[row["key"]], self._arrays[row["key"]] = row, pixels

    def fail(self, row: Row, error: str) -> None:
        """Record that an image could not be generated."""
        self.errors[row["key"]] = {**row, "error": error}

    def settle(self) -> None:
        """Nothing is ever pending."""

    def finish(self, order: Iterable[str]) -> None:
        """Nothing is left to write."""

    def image(self, key: str) -> Image:
        """The image of this key, which was added or failed."""
        if key in self.rows:
            return Image(self.rows[key], None, None, self._arrays[key])
        return Image(self.errors[key], None, self.errors[key]["error"])


def cached_image(key: str) -> Pixels | None:
    """Read an image of shape (H, W, 3) from the cache; None if it is missing or damaged."""
    path = from_cache(_cache_path(key))
    try:
        return None if path is None else read_picture(path)
    except OSError:
        return None


def is_cached(key: str) -> bool:
    """Whether the cache has a file for this key, even a damaged one."""
    return _cache_path(key).exists()


def cache_image(key: str, picture: Path | Pixels) -> None:
    """Store a picture of shape (H, W, 3), or a copy of its file. A cache that cannot be written is no error."""
    if isinstance(picture, Path):
        keep_in_cache(_cache_path(key), lambda path: shutil.copyfile(picture, path))
    else:
        keep_in_cache(_cache_path(key), lambda path: write_picture(path, picture))


def _cache_path(key: str) -> Path:
    return cache_folder() / "images" / key[:2] / f"{key}.png"
