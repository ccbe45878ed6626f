"""Item 49: a command that had finished reports that when it is run again; what a killed one left is removed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import efface
from command_line import Outcome
from efface.errors import BadFile
from efface.files import atomic, check_writable, keep_in_cache, remove_leftovers
from efface.generation.folder import FolderWriter
from efface.rerun import have_same_content
from efface.tensor_writing import write_tensors
from efface.work_folder import MARK, claim


@pytest.fixture(scope="module")
def erasers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("erasers")
    efface.erase("emoji", "cat", "dog").save(folder / "cat.safetensors")
    efface.erase("emoji", "car", "boat").save(folder / "car.safetensors")
    efface.export(folder / "cat.safetensors", "uce", folder / "weights.safetensors")
    return folder


@pytest.mark.parametrize(
    ("command", "other"),
    [
        ("erase cat --to dog -o out.safetensors", "erase cat --to horse -o out.safetensors"),
        ("erase cat --to dog -o out.safetensors", "erase dog --to cat -o out.safetensors"),
        ("compose cat.safetensors car.safetensors -o out.safetensors",
         "compose cat.safetensors car.safetensors --without cat -o out.safetensors"),
        ("import weights.safetensors --concept cat -o out.safetensors",
         "import weights.safetensors --concept kitten -o out.safetensors"),
        ("export cat.safetensors --format kohya -o out.safetensors",
         "export cat.safetensors --format kohya --dtype fp16 -o out.safetensors"),
        ("export cat.safetensors --format single-file -o out.safetensors",
         "export car.safetensors --format single-file -o out.safetensors"),
        ("export cat.safetensors --format esd -o out.pt", "export car.safetensors --format esd -o out.pt"),
        ("export cat.safetensors --format diffusers -o out", "export car.safetensors --format diffusers -o out"),
    ],
)  # fmt: skip
def test_a_finished_command_is_run_again(
    efface: Callable[..., Outcome],
    erasers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    other: str,
) -> None:
    shutil.copytree(erasers, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert efface(*command.split()).code == 0
    (out,) = tmp_path.glob("out*")
    copy = shutil.copytree(out, tmp_path / "copy") if out.is_dir() else shutil.copy(out, tmp_path / "copy")
    again = efface(*command.split())
    assert again.code == 0
    assert "exists already" in again.out
    different = efface(*other.split())
    assert different.code == 2
    assert "already exists" in different.err
    assert have_same_content(out, Path(copy))
    assert not list(tmp_path.glob(".*"))


def test_verdicts_that_are_there_are_compared(efface: Callable[..., Outcome]) -> None:
    assert efface("generate", "a cat", "-n", "2", "--steps", "1", "-o", "images").code == 0
    command = ("judge", "images", "-q", "cat", "-o", "out.parquet")
    first = efface(*command)
    before = Path("out.parquet").read_bytes()
    again = efface(*command)
    assert (first.code, again.code) == (0, 0)
    assert "exists already" in again.out
    assert "exists already" not in first.out
    assert efface(*command, "--json").json()["existed"] is True
    for other in ((*command, "-q", "dog"), ("judge", "images", "-q", "dog", "-o", "out.parquet")):
        assert "already exists" in efface(*other).err
    shutil.copy(next(Path("images").glob("*.png")), "images/more.png")
    with Path("images/metadata.jsonl").open("a") as file:
        file.write('{"file_name": "more.png", "prompt": "a cat"}\n')
    assert "already exists" in efface(*command).err
    assert Path("out.parquet").read_bytes() == before
    Path("out.parquet").write_text("of something else")
    assert "already exists" in efface(*command).err
    assert Path("out.parquet").read_text() == "of something else"
    assert not list(Path().glob(".*"))


def test_verdicts_on_other_images_are_an_error_before_they_are_judged(tmp_path: Path) -> None:
    for seed in (0, 1):
        efface.generate("a cat", steps=1, seed=seed, folder=tmp_path / str(seed))
    efface.judge(tmp_path / "0", "cat", out=tmp_path / "out.parquet")
    with pytest.raises(BadFile, match="already exists"):
        efface.judge(tmp_path / "1", "cat", out=tmp_path / "out.parquet", progress=_work)
    assert efface.judge(tmp_path / "0", "cat", out=tmp_path / "out.parquet").existed


def test_a_grid_of_other_images_is_an_error_before_they_are_generated(tmp_path: Path) -> None:
    grid, options = tmp_path / "grid.png", dict[str, Any](steps=1, folder=tmp_path / "images")
    first = efface.generate_grid(["a cat", "a cat"], grid, **options)
    again = efface.generate_grid(["a cat", "a cat"], grid, **options)
    assert [first.to_json()["existed"], again.to_json()["existed"]] == [False, True]
    with pytest.raises(BadFile, match="already exists"):
        efface.generate_grid(["a dog"], grid, progress=_work, **options)
    assert len(list((tmp_path / "images").rglob("*.png"))) == 1


def test_a_finished_grid_with_a_failed_image_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = efface.open_model("emoji")
    weight = next(model.denoiser.parameters())
    monkeypatch.setattr(weight, "data", torch.full_like(weight, torch.nan))
    done = [
        efface.generate_grid(["a cat"], tmp_path / "a.png", model=model, steps=1, folder=tmp_path / "a")
        for _ in range(2)
    ]
    assert [(result.errors, result.existed) for result in done] == [(1, False), (1, True)]


def _work(what: str, done: int, total: int, note: str = "") -> None:
    raise AssertionError("work was done before the error")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 2}, "with other n"),
        ({"n": 2, "seed": None}, "with other n, seed"),
        ({"seed": None}, "with other seed"),
        ({"command": "evaluate"}, "of evaluate"),
        (None, "of another command"),
        ([], "no record of a command"),
    ],
)
def test_what_other_work_a_folder_holds(tmp_path: Path, changed: Any, message: str) -> None:
    with claim(tmp_path, "attack", {"n": 1}, "done", False):
        mark = tmp_path / MARK
    content = {**json.loads(mark.read_text()), **changed} if isinstance(changed, dict) else changed or {}
    mark.write_text(json.dumps([] if changed == [] else content))
    with pytest.raises(BadFile) as caught, claim(tmp_path, "attack", {"n": 1}, "done", False):
        raise AssertionError("other work was replaced")
    assert f"holds other work ({message});" in str(caught.value)


def test_tensors_are_written_into_one_file_that_the_library_reads(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(2, dtype=torch.bfloat16), "a": torch.arange(3), "c": torch.zeros(()), "d": torch.ones(0)}
    write_tensors(tmp_path / "a.safetensors", tensors, {"key": "värde"})
    assert {name: tensor.tolist() for name, tensor in load_file(tmp_path / "a.safetensors").items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


def test_a_file_in_the_block_of_another_has_one_temporary_name(tmp_path: Path) -> None:
    with atomic(tmp_path / "a") as outer, atomic(outer) as inner:
        inner.write_text("content")
        assert [path.name for path in tmp_path.iterdir()] == [f".a.{os.getpid()}.tmp"]
    assert (tmp_path / "a").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", ["judge", "esd", "cache"])
def test_what_a_killed_run_left_in_its_folder_is_removed(
    tmp_path: Path, tiny_model: efface.Model, finished_process: int, kind: str
) -> None:
    folder = tmp_path / "folder"
    name = {
        "judge": f".parts-a1.{finished_process}.tmp",
        "esd": f".component-0.{finished_process}.tmp",
        "cache": f".x.{finished_process}.tmp",
    }
    left = folder / name[kind]
    left.mkdir(parents=True)
    (left / "weights").touch()
    (folder / ".notes").touch()
    if kind == "judge":
        with claim(tmp_path / "other", "judge train", {}, "judge.json", False):
            shutil.copy(tmp_path / "other" / MARK, folder)
        with claim(folder, "judge train", {}, "judge.json", False):
            pass
    elif kind == "esd":
        efface.erase(tiny_model, "cat", method="esd", context=efface.RunContext(folder), iterations=1, ddim_steps=2)
    else:
        keep_in_cache(folder / "x", lambda path: path.write_text("content"))
    assert not left.exists()
    assert (folder / ".notes").exists()


def test_a_run_removes_only_partial_files_of_ended_processes(tmp_path: Path, finished_process: int) -> None:
    left, ours = f".a.png.{finished_process}.tmp", f".a.png.{os.getpid()}.tmp"
    with claim(tmp_path, "attack", {}, "done", False):
        pass
    others = [tmp_path / name / "content" for name in (".cache.tmp", ".1.tmp", f"judge/.parts.{finished_process}.tmp")]
    for file in (*others, tmp_path / "images" / left, tmp_path / "images" / ours, tmp_path / left):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with claim(tmp_path, "attack", {}, "done", False):
        pass
    assert all(file.exists() for file in (*others, tmp_path / "images" / ours))
    assert not list(tmp_path.rglob(left))


def test_an_image_folder_keeps_the_users_hidden_folders(tmp_path: Path, finished_process: int) -> None:
    for name in (".cache.tmp/content", f".a.png.{finished_process}.tmp", "metadata.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with FolderWriter(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {".cache.tmp", "metadata.jsonl"}
    assert (tmp_path / ".cache.tmp" / "content").exists()


def test_leftovers_of_ended_processes_are_removed(tmp_path: Path, finished_process: int) -> None:
    target = tmp_path / "a[1].safetensors"
    ended, running = (tmp_path / f".{target.name}.{pid}.tmp" for pid in (finished_process, os.getpid()))
    others = [tmp_path / name for name in (f".b.{finished_process}.tmp", f".{target.name}.notes.tmp", ".env")]
    for file in (ended, running, *others):
        file.touch()
    check_writable(target, force=False)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in others} | (
        {running.name} if running.exists() else set()
    )


def test_a_folder_that_was_being_replaced_is_put_back(tmp_path: Path, finished_process: int) -> None:
    target, old = tmp_path / "model", tmp_path / f".model.{finished_process}.old"
    new = tmp_path / f".model.{finished_process}.tmp"
    for folder in (old, new):
        folder.mkdir()
        (folder / "file").write_text(folder.suffix)
    remove_leftovers(target)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "file").read_text() == ".old"
    old.mkdir()
    remove_leftovers(target)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_export_that_was_killed_leaves_nothing(
    efface: Callable[..., Outcome], erasers: Path, tmp_path: Path, finished_process: int
) -> None:
    folder = tmp_path / "folder"
    left = folder / f".out.{finished_process}.tmp" / "unet"
    left.mkdir(parents=True)
    (left / "config.json").touch()
    outcome = efface("export", str(erasers / "cat.safetensors"), "--format", "diffusers", "-o", str(folder / "out"))
    assert outcome.code == 0
    assert "shards" not in outcome.err
    assert [path.name for path in folder.iterdir()] == ["out"]
    assert load_file(folder / "out" / "unet" / "diffusion_pytorch_model.safetensors")
