"""Folders of images: whole rows only, no way out of the folder, the same after a kill as without one."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import Tensor

import efface
from efface.errors import BadFile
from efface.generation import Job, Sampling, generate_images, read_folder
from efface.generation.folder import FolderWriter, cached_image, file_name
from efface.models import Model
from efface.progress import Progress
from support import Processes

JOBS = [Job(prompt, seed) for prompt in ("a cat", "a <script>/../dog") for seed in range(3)]
SAMPLING = Sampling("ddim", 3, 3.0, batch_size=2)


class StoppedError(Exception):
    """What a run is interrupted with."""


def stop_at(count: int) -> Progress:
    def tell(what: str, done: int, total: int, note: str = "") -> None:
        if done == count:
            raise StoppedError

    return tell


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_is_an_image_folder(tiny_model: Model, tmp_path: Path) -> None:
    made = generate_images(tiny_model, JOBS, SAMPLING, out=tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["seed"]) for row in rows] == [(job.prompt, job.seed) for job in JOBS]
    assert {row["file_name"] for row in rows} == {path.name for path in (tmp_path / "out").glob("*.png")}
    assert all(row["steps"] == 3 and row["guidance"] == 3.0 and row["eraser"] is None for row in rows)
    assert [image.row for image in read_folder(tmp_path / "out")] == [image.row for image in made]
    assert np.array_equal(made[0].pixels(), np.asarray(Picture.open(made[0].path or "")))


def test_the_text_is_read_as_the_eraser_read_it_unless_the_sampling_says_how(tiny_model: Model, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_model, "cat", to="dog", clip_skip=1)
    for place, (given, expected) in enumerate(((None, 1), (0, 0))):
        sampling = replace(SAMPLING, clip_skip=given)
        made = generate_images(tiny_model, JOBS[:1], sampling, out=tmp_path / str(place), eraser=eraser)
        assert made[0].row["clip_skip"] == expected
    assert generate_images(tiny_model, JOBS[:1], SAMPLING, out=tmp_path / "plain")[0].row["clip_skip"] is None


def test_a_second_run_makes_nothing(tiny_sd: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate_images(efface.open_model(tiny_sd), JOBS, SAMPLING, out=out)
    before = contents(out)
    model = efface.open_model(tiny_sd)
    generate_images(model, JOBS, SAMPLING, out=out)
    assert contents(out) == before
    assert "denoiser" not in model.__dict__, "nothing to make, and yet the denoiser was loaded"


def test_more_jobs_join_and_another_eraser_is_another_image(tiny_model: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = generate_images(tiny_model, JOBS[:2], SAMPLING, out=out)
    eraser = efface.erase(tiny_model, "cat", to="house")
    second = generate_images(tiny_model, JOBS[:2], SAMPLING, out=out, eraser=eraser)
    assert {image.path for image in first}.isdisjoint({image.path for image in second})
    assert len(read_folder(out)) == 4


def test_equal_jobs_share_a_file(tiny_model: Model, tmp_path: Path) -> None:
    made = generate_images(
        tiny_model, [Job("a cat", 1, concept="cat"), Job("a cat", 1)], SAMPLING, out=tmp_path / "out"
    )
    assert made[0].path == made[1].path


def test_damaged_pictures_and_half_rows_are_made_again(
    tiny_model: Model, tmp_path: Path, finished_process: int
) -> None:
    out = tmp_path / "out"
    made = generate_images(tiny_model, JOBS, SAMPLING, out=out)
    before = contents(out)
    path = made[1].path
    assert path is not None
    path.write_bytes(path.read_bytes()[:40])
    text = (out / "metadata.jsonl").read_text()
    (out / "metadata.jsonl").write_text(text[: len(text) - 25])
    (out / f".half.png.{finished_process}.tmp").write_bytes(b"x")
    generate_images(tiny_model, JOBS, SAMPLING, out=out)
    assert contents(out) == before


@pytest.mark.parametrize("size", [2, 3])
def test_a_run_that_goes_on_runs_the_batches_of_one_that_was_never_stopped(
    tiny_sd: Path, tmp_path: Path, size: int
) -> None:
    """Not only equal pixels, which rounding may hide: every number that the denoiser is given."""
    jobs, sampling = [Job(f"a cat {i}", i) for i in range(8)], replace(SAMPLING, batch_size=size)

    def run(out: str, progress: Progress | None = None) -> list[list[Tensor]]:
        """What the denoiser was given, call by call."""
        model, seen = efface.open_model(tiny_sd), list[list[Tensor]]()

        def see(_: object, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            seen.append([arguments[0].clone(), named["encoder_hidden_states"].clone()])

        model.denoiser.register_forward_pre_hook(see, with_kwargs=True)
        generate_images(model, jobs, sampling, out=tmp_path / out, progress=progress)
        return seen

    whole = run("whole")
    lost = [read_folder(tmp_path / "whole")[i].path for i in (3, 4)]
    batches = sorted({i // size for i in (3, 4)})
    shutil.copytree(tmp_path / "whole", tmp_path / "holes")
    for path in lost:
        assert path
        (tmp_path / "holes" / path.name).unlink()
    reports: list[tuple[int, int]] = []

    def tell(what: str, done: int, total: int, note: str = "") -> None:
        reports.append((done, total))

    again = run("holes", tell)
    expected = [call for b in batches for call in whole[3 * b : 3 * b + 3]]
    assert len(again) == len(expected), "other batches than those with something missing ran"
    assert all(torch.equal(x, y) for xs, ys in zip(again, expected, strict=True) for x, y in zip(xs, ys, strict=True))
    assert reports == [(6, 8), (7, 8), (8, 8)]
    assert contents(tmp_path / "holes") == contents(tmp_path / "whole")
    for count in (1, 4, 7):
        with pytest.raises(StoppedError):
            run(f"stopped at {count}", stop_at(count))
        run(f"stopped at {count}")
        assert contents(tmp_path / f"stopped at {count}") == contents(tmp_path / "whole")


def test_what_cannot_be_made_is_an_error_and_tried_again(tiny_sd: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = efface.open_model(tiny_sd)
    broken.denoiser.conv_out.weight.data.fill_(np.nan)
    made = generate_images(broken, JOBS[:1], SAMPLING, out=out)
    assert made[0].path is None
    assert "not finite" in str(made[0].error)
    assert read_folder(out)[0].error == made[0].error
    with pytest.raises(OSError, match="not finite"):
        made[0].pixels()
    generate_images(broken, JOBS[1:2], SAMPLING, out=out)
    assert len([image for image in read_folder(out) if image.error]) == 2, "the second pass is over other images"
    generate_images(efface.open_model(tiny_sd), JOBS[:2], SAMPLING, out=out)
    assert [image.error for image in read_folder(out)] == [None, None]


def test_cache_serves_another_folder(tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    generate_images(efface.open_model(tiny_sd), JOBS, SAMPLING, out=tmp_path / "one", use_cache=True)
    model = efface.open_model(tiny_sd)
    made = generate_images(model, JOBS, SAMPLING, out=tmp_path / "two", use_cache=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert "denoiser" not in model.__dict__
    key = made[0].row["key"]
    next((tmp_path / "cache").rglob(f"{key}.png")).write_bytes(b"damaged")
    assert cached_image(key) is None


def test_an_interrupted_run_fills_the_cache_all_the_same(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StoppedError):
        generate_images(
            efface.open_model(tiny_sd), JOBS, SAMPLING, out=tmp_path / "one", use_cache=True, progress=stop_at(3)
        )
    assert not (tmp_path / "cache").exists()
    generate_images(efface.open_model(tiny_sd), JOBS, SAMPLING, out=tmp_path / "one", use_cache=True)
    model = efface.open_model(tiny_sd)
    generate_images(model, JOBS, SAMPLING, out=tmp_path / "two", use_cache=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert "denoiser" not in model.__dict__, "the images made before the interruption were drawn again"


def test_prompts_never_become_paths() -> None:
    for prompt in ("../../etc/passwd", "C:\\x", "a/b", "", "." * 300, "雪", "x" * 500):
        name = file_name(prompt, 1, "0123456789abcdef")
        assert Path(name).name == name
        assert name.endswith("-1-0123456789.png")
        assert len(name) < 100


def test_metadata_cannot_lead_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "metadata.jsonl").write_text('{"file_name": "../secret.png"}\n')
    with pytest.raises(BadFile, match="not a file in its folder"):
        read_folder(tmp_path / "in")


def test_foreign_folders(tmp_path: Path) -> None:
    Picture.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "b.png")
    Picture.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.jpg")
    images = read_folder(tmp_path)
    assert [image.row["file_name"] for image in images] == ["a.jpg", "b.png"]
    assert images[0].pixels().shape == (4, 5, 3)
    with pytest.raises(BadFile, match="not a folder of images"):
        FolderWriter(tmp_path)
    with pytest.raises(BadFile, match="not a folder"):
        read_folder(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(BadFile, match="Cannot write"):
        FolderWriter(tmp_path / "file" / "out")


_JOBS = """
from efface.generation import Job, Sampling
jobs = [Job(prompt, seed) for prompt in ("a cat", "a dog") for seed in range(6)]
sampling = Sampling("ddim", 3, 3.0, batch_size=2)
"""
_KILLED = """
import os
import signal
from pathlib import Path
import efface
from efface.generation import generate_images

def tell(what, done, total, note=""):
    if done == {count}:
        os.kill(os.getpid(), {signal})  # while a thread writes the latest images

generate_images(efface.open_model({model!r}), jobs, sampling, out=Path({out!r}), progress=tell)
"""


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_run_again_is_as_if_never_killed(
    processes: Processes, tiny_sd: Path, tmp_path: Path, with_signal: signal.Signals
) -> None:
    model, names = efface.open_model(tiny_sd), dict[str, Any]()
    exec(_JOBS, names)

    def go_on(out: str) -> dict[str, bytes]:
        generate_images(model, names["jobs"], names["sampling"], out=tmp_path / out)
        return contents(tmp_path / out)

    whole = go_on("whole")
    for count in (3, 6, 11):
        out = tmp_path / f"killed at {count}"
        script = _JOBS + _KILLED.format(count=count, signal=int(with_signal), model=str(tiny_sd), out=str(out))
        ended = processes.wait(processes.script(script))
        assert ended == (-signal.SIGKILL if with_signal == signal.SIGKILL else 1)
        assert (out / "metadata.jsonl").read_text().count("\n") < len(names["jobs"])
        assert go_on(out.name) == whole
