"""Removing the images that efface generated, and no other file."""

import json
from pathlib import Path

import numpy as np
import pytest

from efface.errors import BadFile
from efface.files import locked
from efface.generation.folder import ERRORS, METADATA, FolderWriter
from efface.generation.removal import remove_images
from support import IMAGE_ROW


def image_folder(path: Path, *names: str) -> Path:
    with FolderWriter(path) as folder:
        for name in names:
            folder.add({**IMAGE_ROW, "file_name": name, "key": name}, np.zeros((8, 8, 3), np.uint8))
        folder.fail({**IMAGE_ROW, "file_name": "failed.png", "key": "failed"}, "not finite")
        folder.finish(names)
    return path


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_the_pictures_alone_or_the_whole_folder_are_removed(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "top" / "base", "a.png", "b.png")
    (tmp_path / "top" / "other").mkdir()
    remove_images([folder, tmp_path / "missing"])
    assert left_in(folder) == {METADATA, ERRORS}
    remove_images([folder], below=tmp_path / "top")
    assert left_in(tmp_path / "top") == {"other"}


def test_rows_and_pictures_of_other_programs_stay(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "base", "a.png")
    outside = tmp_path / "outside.png"
    others = [{"file_name": "mine.png"}, {**IMAGE_ROW, "file_name": "../outside.png", "key": "k"}]
    for file in (folder / "mine.png", outside):
        file.touch()
    with (folder / METADATA).open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in others)
    remove_images([folder], below=tmp_path)
    assert left_in(folder) == {METADATA, "mine.png"}
    assert [json.loads(line) for line in (folder / METADATA).read_text().splitlines()] == others[:1]
    assert outside.exists()


def test_what_cannot_be_removed_is_reported_and_all_others_are_removed(tmp_path: Path) -> None:
    first, second = (image_folder(tmp_path / name, "a.png", "b.png") for name in ("first", "second"))
    (first / "a.png").unlink()
    (first / "a.png").mkdir()  # a folder is not removed as a picture
    with pytest.raises(BadFile, match=r"cannot be removed; remove them: .*first.a\.png"):
        remove_images([first, second], below=tmp_path)
    assert left_in(first) == {METADATA, ERRORS, "a.png"}
    assert not second.exists()


def test_the_images_of_another_run_stay(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "base", "a.png")
    with locked(folder), pytest.raises(BadFile, match="Another run"):
        remove_images([folder], below=tmp_path)
    assert left_in(folder) == {METADATA, ERRORS, "a.png"}
