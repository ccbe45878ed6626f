"""Downloads of single files by URL: streamed, resumed after an interruption and checked; archives are unpacked.

A download is written to `.NAME.part`, and `.NAME.etag` beside it has the server's version of the file (ETag). A second
download continues the part with a range request if the server still has that version. A complete file has the size that
the server announced and, where the ETag is a SHA-256, this hash.

An archive is unpacked only if all of its files are inside its folder. It is unpacked beside the folder and renamed, so
that a folder is complete or absent.
"""

from __future__ import annotations

import http.client
import re
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from efface.errors import BadFile, BadInput
from efface.files import sha256_of_file, why_not_written

if TYPE_CHECKING:
    from efface.progress import Progress

_BLOCK, _SECONDS = 1 << 20, 30
_SHA256 = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?')


class DownloadError(RuntimeError):
    """A file was not downloaded completely; the message has the reason."""


def is_url(name: str) -> bool:
    """Whether a name is an address of the web."""
    return name.startswith(("http://", "https://"))


def name_of(url: str) -> str:
    """The name of the file at an address.

    Raises:
        BadInput: The address ends without a file name.
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name or name in (".", "..") or "\\" in name:
        raise BadInput(f"The address {url} ends without a file name.")
    return name


@dataclass(frozen=True)
class _Part:
    """An incomplete file and the version of the complete one."""

    path: Path
    version: Path

    @classmethod
    def of(cls, target: Path) -> _Part:
        return cls(target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.etag"))

    def headers(self) -> dict[str, str]:
        """The headers of a request for the rest of the file."""
        if not self.path.is_file() or not self.version.is_file():
            return {}
        return {
            "Range": f"bytes={self.path.stat().st_size}-",
            "If-Range": self.version.read_text(encoding="latin-1"),
        }

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)


def download(url: str, target: Path, progress: Progress | None = None) -> None:
    """Download a file. An interrupted download continues when it is called again.

    Args:
        url: The address.
        target: The file to write.
        progress: The progress callback, in units of 1 MiB.

    Raises:
        DownloadError: The server cannot be reached, or the file is incomplete or damaged.
        BadFile: The file cannot be written.
    """
    part = _Part.of(target)
    try:
        etag = _fetch(url, part, progress)
        digest = _SHA256.fullmatch(etag)
        if digest and sha256_of_file(part.path) != digest[1]:
            part.remove()
            raise DownloadError("its content has another hash than the server announces")
        part.path.replace(target)
        part.remove()
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DownloadError(" ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__) from error
    except OSError as error:
        raise BadFile(f"Cannot write {target}: {why_not_written(error)}.") from error


def _fetch(url: str, part: _Part, progress: Progress | None) -> str:
    """Write the missing bytes of a file to its part, and return the ETag."""
    headers = part.headers()
    try:
        response = _opened(url, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not headers:  # a part that is no beginning of the file
            raise
        part.remove()
        response = _opened(url, {})
    with response:
        etag = response.headers.get("ETag") or ""
        start = part.path.stat().st_size if response.status == 206 else 0
        announced = response.headers.get("Content-Length")
        total = start + int(announced) if announced else None
        if response.status != 206:
            part.version.write_text(etag, encoding="latin-1")
        with part.path.open("ab" if start else "wb") as file:
            done = _copied(response, file, start, total, progress)
    if total is not None and done != total:
        raise DownloadError(
            f"the connection ended after {done} of {total} bytes; run the same command again to continue"
        )
    return etag


def _opened(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SECONDS)


def _copied(
    response: http.client.HTTPResponse, file: IO[bytes], done: int, total: int | None, progress: Progress | None
) -> int:
    """Copy blocks to a file, and return the size of the file."""
    while True:
        block = response.read(_BLOCK)
        if not block:
            return done
        file.write(block)
        done += len(block)
        if progress:
            progress("MiB", done // _BLOCK, max(total or done, done) // _BLOCK)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a ZIP archive into a new folder, and remove the archive.

    Args:
        archive: The archive. It is removed if it is damaged, too, since a second download is needed then.
        folder: The folder to make.

    Raises:
        BadFile: The archive is damaged, has a file outside of its folder or a link, does not fit on the disk, or the
            folder cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.unpacked")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            for member in members:
                _check_member(archive, member)
            if sum(member.file_size for member in members) > shutil.disk_usage(archive.parent).free:
                raise BadFile(f"The content of {archive} does not fit on the disk.")
            temporary.mkdir()
            content.extractall(temporary)
        if folder.is_dir():
            shutil.rmtree(folder)
        temporary.replace(folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        archive.unlink()
        raise BadFile(f"The archive {archive} is damaged ({error}) and was removed; download it again.") from error
    except OSError as error:
        raise BadFile(f"Cannot unpack {archive} to {folder}: {why_not_written(error)}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    with suppress(OSError):
        archive.unlink()


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a member that would be written outside of the folder, or that is a link."""
    name = PurePosixPath(member.filename.replace("\\", "/"))
    outside = not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise BadFile(f"The archive {archive} has a file outside of its folder, or a link: {member.filename!r}.")
