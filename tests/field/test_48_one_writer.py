"""One run at a time writes to a folder; a run that was killed leaves no lock."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efface
from efface import Model, RunContext
from efface.errors import BadFile
from efface.files import locked
from efface.generation.folder import FolderWriter
from efface.work_folder import claim
from support import IMAGE_ROW

PIXELS = np.zeros((8, 8, 3), np.uint8)
ROW = {**IMAGE_ROW, "file_name": "a.png", "key": "k"}


def test_a_second_writer_of_images_is_rejected_and_removes_nothing(tmp_path: Path) -> None:
    with FolderWriter(tmp_path / "out") as first:
        (tmp_path / "out" / ".b.png.1.tmp").touch()
        with pytest.raises(BadFile, match="Another run"):
            FolderWriter(tmp_path / "out")
        assert (tmp_path / "out" / ".b.png.1.tmp").exists()
        first.add(ROW, PIXELS)
    with FolderWriter(tmp_path / "out") as second:
        assert list(second.rows) == ["k"]


def test_a_second_run_of_the_same_work_is_rejected(tmp_path: Path) -> None:
    with claim(tmp_path / "out", "attack", {}, "done", False):
        for force in (False, True):
            with pytest.raises(BadFile, match="Another run"), claim(tmp_path / "out", "attack", {}, "done", force):
                raise AssertionError("two runs at once")
    with claim(tmp_path / "out", "attack", {}, "done", False):
        pass


TRAININGS: dict[str, dict[str, Any]] = {
    "esd": {"iterations": 1, "ddim_steps": 2},
    "cie": {},
    "sepce": {},
}


@pytest.mark.parametrize("method", TRAININGS)
def test_a_second_training_in_one_folder_is_rejected(tiny_model: Model, tmp_path: Path, method: str) -> None:
    folder, options = tmp_path / "cat.training", TRAININGS[method]
    folder.mkdir()
    with locked(folder), pytest.raises(BadFile, match="Another run"):
        efface.erase(tiny_model, "cat", method=method, context=RunContext(folder), **options)
    assert list(folder.iterdir()) == []


def test_a_training_holds_its_lock_until_it_ends(tiny_model: Model, tmp_path: Path) -> None:
    folder, rejected = tmp_path / "cat.training", list[str]()

    def second(what: str, done: int, total: int, note: str = "") -> None:
        with pytest.raises(BadFile, match="Another run") as caught:
            efface.erase(tiny_model, "cat", method="esd", context=RunContext(folder, force=True), **TRAININGS["esd"])
        rejected.append(str(caught.value))

    efface.erase(tiny_model, "cat", method="esd", context=RunContext(folder, second), **TRAININGS["esd"])
    assert len(rejected) == 1
    with locked(folder):
        pass


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    program = "import sys, time; from pathlib import Path; from efface.files import locked\n"
    program += "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(BadFile, match="Another run"), locked(tmp_path):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with locked(tmp_path):
        pass
