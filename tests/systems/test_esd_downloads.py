"""ESD as packaged in `mu`: its downloads of models and data sets, from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

from command_line import Efface

MODEL = bytes(range(256)) * 9000  # more than two blocks


@dataclass
class Server:
    """A server of files, which can close a connection early.

    Attributes:
        address: Its address.
        files: The content by path.
        requests: The paths and the ranges that were asked for.
        closes_after: The number of bytes after which the next answer ends; None for complete answers.
        etag: The ETag of every file; None for the SHA-256 of its content.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    requests: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    closes_after: int | None = None
    etag: str | None = None


@pytest.fixture
def server() -> Iterator[Server]:
    offered = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path, wanted = self.path.split("?")[0], self.headers["Range"]
            content = offered.files.get(path)
            if body:
                offered.requests.append((path, wanted))
            if content is None:
                self.send_error(404)
                return
            etag = offered.etag or f'"{hashlib.sha256(content).hexdigest()}"'
            start = int(wanted[6:-1]) if wanted and self.headers["If-Range"] in (None, etag) else 0
            self.send_response(206 if start else 200)
            self.send_header("ETag", etag)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if body:
                end, offered.closes_after = offered.closes_after, None
                self.wfile.write(content[start:end])

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        offered.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield offered
        http.shutdown()


def archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return content.getvalue()


def test_e7_a_checkpoint_is_downloaded_and_an_interrupted_download_resumes(efface: Efface, server: Server):
    server.files["/compvis.ckpt"], server.closes_after = MODEL, 1_500_000
    url = f"{server.address}/compvis.ckpt"
    ended = efface("fetch", "models", url)
    assert ended.code == 1
    assert "after 1500000 of 2304000 bytes; run the same command again" in ended.err
    assert not Path("compvis.ckpt").exists()
    answer = efface("fetch", "models", url, "--json").json()
    assert answer == {"kind": "models", "path": "compvis.ckpt", "use": "--model compvis.ckpt"}
    assert Path("compvis.ckpt").read_bytes() == MODEL
    assert server.requests == [("/compvis.ckpt", None), ("/compvis.ckpt", "bytes=1500000-")]
    assert [path.name for path in Path().iterdir()] == ["compvis.ckpt"]


def test_e7_a_checkpoint_in_a_folder_has_its_own_name(efface: Efface, server: Server):
    server.files["/full-ema.ckpt"] = MODEL
    command = ("fetch", "models", f"{server.address}/full-ema.ckpt", "-o", "models", "--json")
    target = Path("models/full-ema.ckpt")
    assert efface(*command).json() == {"kind": "models", "path": str(target), "use": f"--model {target}"}
    assert target.read_bytes() == MODEL
    assert f"{target} already exists" in efface(*command).err  # models is a folder now
    ended = efface("fetch", "models", f"{server.address}/missing.ckpt", "-o", "ldm")
    assert f"place it at {Path('ldm/missing.ckpt')}, and pass --model {Path('ldm/missing.ckpt')}" in ended.err
    assert not Path("ldm").exists()


def test_e7_a_file_that_changed_on_the_server_is_downloaded_again(efface: Efface, server: Server):
    server.files["/a.ckpt"], server.closes_after = MODEL, 1000
    assert efface("fetch", "models", f"{server.address}/a.ckpt").code == 1
    server.files["/a.ckpt"] = MODEL[::-1]
    assert efface("fetch", "models", f"{server.address}/a.ckpt", "-o", "a.ckpt").code == 0
    assert Path("a.ckpt").read_bytes() == MODEL[::-1]


def test_e7_damaged_content_is_refused(efface: Efface, server: Server):
    server.files["/a.ckpt"], server.etag = MODEL, f'"{hashlib.sha256(b"other").hexdigest()}"'
    ended = efface("fetch", "models", f"{server.address}/a.ckpt")
    assert (ended.code, list(Path().iterdir())) == (1, [])
    assert "another hash" in ended.err


def test_e7_an_archive_is_unpacked_into_its_folder_and_removed(efface: Efface, server: Server):
    server.files["/mu/compvis.zip"] = archive(**{"style50/compvis.ckpt": MODEL, "style50/readme.txt": b"a model"})
    answer = efface("fetch", "models", f"{server.address}/mu/compvis.zip", "--json").json()
    assert answer["use"] == "--model compvis/style50/compvis.ckpt"
    assert Path("compvis/style50/compvis.ckpt").read_bytes() == MODEL
    assert [path.name for path in Path().iterdir()] == ["compvis"]
    again = efface("fetch", "models", f"{server.address}/mu/compvis.zip")
    assert (again.code, "--force" in again.err) == (2, True)
    assert efface("fetch", "models", f"{server.address}/mu/compvis.zip", "--force").code == 0


@pytest.mark.parametrize("name", ["../outside.ckpt", "/tmp/outside.ckpt", "a/../../outside.ckpt", "..\\outside.ckpt"])
def test_e7_nothing_is_unpacked_outside_of_the_folder(efface: Efface, server: Server, name: str):
    server.files["/a.zip"] = archive(**{"inside.ckpt": b"model", name: b"model"})
    ended = efface("fetch", "models", f"{server.address}/a.zip")
    assert ended.code == 2
    assert "outside of its folder" in ended.err
    assert not Path("a").exists()
    assert not list(Path("..").rglob("outside.ckpt"))


def test_e7_links_and_damaged_archives_are_refused(efface: Efface, server: Server):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr(link, "/etc/passwd")
    server.files["/link.zip"] = content.getvalue()
    assert "or a link: 'link'" in efface("fetch", "models", f"{server.address}/link.zip").err
    server.files["/short.zip"] = archive(model=MODEL)[:-100]
    ended = efface("fetch", "models", f"{server.address}/short.zip")
    assert (ended.code, Path("short").exists(), Path("short.zip").exists()) == (2, False, False)
    assert "is damaged" in ended.err


def test_e7_urls_that_cannot_be_used(efface: Efface, refused: Callable[..., str], server: Server):
    assert "is no checkpoint" in refused("fetch", "models", f"{server.address}/model.exe")
    assert "without a file name" in refused("fetch", "models", f"{server.address}/")
    assert "leave --sample out" in refused("fetch", "models", f"{server.address}/a.ckpt", "--sample", 3)
    ended = efface("fetch", "models", f"{server.address}/missing.ckpt")
    assert (ended.code, list(Path().iterdir())) == (1, [])
    assert "place it at missing.ckpt" in ended.err
    unreachable = efface("fetch", "models", "http://127.0.0.1:9/a.ckpt")
    assert (unreachable.code, unreachable.err.count("\n")) == (1, 1)


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server as the hub, with the two data sets."""
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    prompts = "".join(f"prompt {i},{i}\n" for i in range(10))
    server.files["/datasets/AIML-TUDA/i2p/resolve/main/i2p_benchmark.csv"] = f"prompt,sd_seed\n{prompts}".encode()
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "JPEG")
    names, root = [], "/datasets/OPTML-Group/UnlearnCanvas/resolve/main/"
    for shard in range(3):
        texts = [f"A Dogs image in Style {shard} style." for _ in range(4)]
        rows = {"image": [{"bytes": picture.getvalue(), "path": None}] * 4, "text": texts}
        table = io.BytesIO()
        pq.write_table(pa.table(rows), table)
        names.append(f"data/train-{shard}.parquet")
        server.files[root + names[-1]] = table.getvalue()
    tree = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
    server.files["/api/datasets/OPTML-Group/UnlearnCanvas/tree/main"] = repr(tree).replace("'", '"').encode()
    return server


def test_e8_a_sample_of_prompts_is_spread_over_the_file(efface: Efface, hub: Server):
    assert efface("fetch", "i2p", "--sample", 5, "-o", "sample.csv").code == 0
    rows = "".join(f"prompt {i},{i}\n" for i in (0, 2, 4, 6, 8))
    assert Path("sample.csv").read_text() == f"prompt,sd_seed\n{rows}"
    assert efface("fetch", "i2p", "-o", "full.csv").code == 0
    assert len(Path("full.csv").read_text().splitlines()) == 11
    assert efface("fetch", "i2p", "--sample", 99, "-o", "all.csv").code == 0
    assert Path("all.csv").read_text() == Path("full.csv").read_text()


def test_e8_a_sample_of_pictures_needs_only_some_files(efface: Efface, hub: Server):
    assert efface("fetch", "unlearncanvas", "--sample", 6, "-o", "canvas").code == 0
    assert len(list(Path("canvas").rglob("*.jpg"))) == 6
    assert sorted(path.name for path in Path("canvas").iterdir()) == ["Style_0", "Style_1"]
    assert [path.rpartition("/")[2] for path, _ in hub.requests if path.endswith("parquet")] == [
        "train-0.parquet", "train-1.parquet",
    ]  # fmt: skip


def test_e8_samples_that_cannot_be_used(refused: Callable[..., str]):
    assert "--sample" in refused("fetch", "i2p", "--sample", 0)
    assert "--sample" in refused("fetch", "unlearncanvas", "--sample", "few")
