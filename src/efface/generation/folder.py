"""A folder of images with `metadata.jsonl`, as Hugging Face `datasets` reads it (ImageFolder).

Each row carries what the image was made with and a content hash of that, its key. A row is written after its picture
is whole on disk, so a folder whose writer was killed holds only finished rows, and the next run makes the rest.
Images that could not be made are rows of `errors.jsonl`, since ImageFolder wants a file for every row.
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from efface.errors import BadFile
from efface.files import atomic, cache_folder, keep_in_cache

METADATA, ERRORS = "metadata.jsonl", "errors.jsonl"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
_PENDING = 64

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Image:
    """One image, in a folder or in memory.

    Attributes:
        row: Its metadata; in a folder without metadata, only `file_name`.
        path: The file; `None` for an image in memory, and for one that could not be generated.
        error: The reason why it could not be generated.
        array: The pixels (height, width, 3) of an image in memory.
    """

    row: Row
    path: Path | None
    error: str | None = None
    array: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)

    def pixels(self) -> NDArray[np.uint8]:
        """The picture, (height, width, 3).

        Raises:
            OSError: There is none, or the file is not a complete picture.
        """
        if self.array is not None:
            return self.array
        if self.path is None:
            raise OSError(self.error or "there is no picture")
        return read_picture(self.path)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture file as (height, width, 3); OSError if it is not a whole picture."""
    try:
        with Picture.open(path) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except (SyntaxError, ValueError, Picture.DecompressionBombError) as error:
        raise OSError(f"{path.name}: {error}") from error


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write (height, width, 3) without loss."""
    Picture.fromarray(pixels).save(path, format="PNG", compress_level=4)


def read_folder(path: Path) -> list[Image]:
    """The images of a folder: those of its metadata, else every picture file in it, in order of name.

    Raises:
        BadFile: There is no such folder, it has no picture, or its metadata leads out of it.
    """
    if not path.is_dir():
        raise BadFile(f"Cannot read images from {path}: it is not a folder.")
    rows = read_rows(path / METADATA)
    for row in rows:
        name = row.get("file_name")
        if not isinstance(name, str) or not (path / name).resolve().is_relative_to(path.resolve()):
            raise BadFile(f"{path / METADATA} names {name!r}, which is not a file in its folder.")
    if not rows:
        rows = [{"file_name": f.name} for f in sorted(path.iterdir()) if f.suffix.lower() in SUFFIXES]
    images = [Image(row, path / row["file_name"]) for row in rows]
    images += [Image(row, None, str(row.get("error"))) for row in read_rows(path / ERRORS)]
    if not images:
        raise BadFile(f"{path} holds no images; give a folder of pictures, or one that `efface generate` wrote.")
    return images


def file_name(prompt: str, seed: int, key: str) -> str:
    """A name that a person can read and that no prompt can turn into a path."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48].strip("-")
    return f"{words or 'image'}-{seed}-{key[:10]}.png"


class Folder:
    """A folder being written, by a thread of its own; use as a context.

    Args:
        path: Made if it is missing; must be empty or an image folder.

    Raises:
        BadFile: It cannot be written, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / METADATA).exists() and any(path.iterdir()):
                raise BadFile(f"{path} is not empty and not a folder of images; choose another folder.")
            (path / METADATA).touch()
            for left in path.glob(".*.tmp"):  # of a run that was killed
                left.unlink()
        except OSError as error:
            raise BadFile(f"Cannot write images to {path}: {error.strerror or error}.") from error
        #: Finished rows by key, in the order in which they were finished.
        self.rows: dict[str, Row] = {r["key"]: r for r in read_rows(path / METADATA) if "key" in r and self._whole(r)}
        #: What could not be made, by this pass or one before it over other images.
        self.errors: dict[str, Row] = {r["key"]: r for r in read_rows(path / ERRORS) if "key" in r}
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Also after Ctrl-C: what is already computed is kept.
        self._writer.shutdown(wait=True)
        if kind is None:
            self.settle()

    def add(self, row: Row, pixels: NDArray[np.uint8]) -> None:
        """Queue one picture and its row; an earlier failure to write is raised here."""
        self._settle(_PENDING)
        self._pending.append(self._writer.submit(self._write, row, pixels))

    def fail(self, row: Row, error: str) -> None:
        """Note that an image could not be made."""
        self.errors[row["key"]] = {**row, "error": error}

    def settle(self) -> None:
        """Wait until every queued picture is on disk."""
        self._settle(0)

    def finish(self, order: Iterable[str]) -> None:
        """Rewrite the metadata with these keys first, so that an interrupted run ends as an uninterrupted one."""
        self.settle()
        wanted = {key: self.rows[key] for key in order if key in self.rows}
        write_rows(self.path / METADATA, [*wanted.values(), *(r for k, r in self.rows.items() if k not in wanted)])
        if failed := [row for key, row in self.errors.items() if key not in self.rows]:
            write_rows(self.path / ERRORS, failed)
        else:
            (self.path / ERRORS).unlink(missing_ok=True)

    def image(self, key: str) -> Image:
        """The image of this key, which was added or failed."""
        if key in self.rows:
            return Image(self.rows[key], self.path / self.rows[key]["file_name"])
        return Image(self.errors[key], None, self.errors[key]["error"])

    def _write(self, row: Row, pixels: NDArray[np.uint8]) -> None:
        with atomic(self.path / row["file_name"]) as temporary:
            write_picture(temporary, pixels)
        with (self.path / METADATA).open("a", encoding="utf-8") as file:
            file.write(_line(row))
        self.rows[row["key"]] = row

    def _settle(self, allowed: int) -> None:
        """Wait until at most `allowed` pictures are queued."""
        while len(self._pending) > allowed:
            self._pending.pop(0).result()

    def _whole(self, row: Row) -> bool:
        try:
            read_picture(self.path / str(row["file_name"]))
        except (OSError, KeyError):
            return False
        return True


class Memory:
    """Images in memory, with the interface of `Folder`."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.errors: dict[str, Row] = {}
        self._arrays: dict[str, NDArray[np.uint8]] = {}

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def add(self, row: Row, pixels: NDArray[np.uint8]) -> None:
        """Store the pixels (height, width, 3) of one image with its row."""
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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; half a line, as a killed writer leaves it, is not a row."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write a file of JSON lines, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text("".join(map(_line, rows)), encoding="utf-8")


def _line(row: Row) -> str:
    return json.dumps(dict(row), ensure_ascii=False) + "\n"


# The cache of the unedited model's images: content-addressed, so that no two evaluations ever make one twice.
#
# It lies in the folder that the environment variable `EFFACE_CACHE` names, else in the user's cache folder.


def cached(key: str) -> NDArray[np.uint8] | None:
    """The image of this key, if it was ever kept and is still whole."""
    try:
        return read_picture(_place(key))
    except OSError:
        return None


def is_kept(key: str) -> bool:
    """Whether the cache has a file of this key, whole or not."""
    return _place(key).exists()


def keep(key: str, picture: Path | NDArray[np.uint8]) -> None:
    """Put a picture, or its file, into the cache; a cache that cannot be written is no reason to stop."""
    if isinstance(picture, Path):
        keep_in_cache(_place(key), lambda path: shutil.copyfile(picture, path))
    else:
        keep_in_cache(_place(key), lambda path: write_picture(path, picture))


def _place(key: str) -> Path:
    return cache_folder() / "images" / key[:2] / f"{key}.png"
