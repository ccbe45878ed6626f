"""Labelled pictures for training a judge: labels by folder or metadata, and the split for training and testing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efface.errors import BadFile, BadInput
from efface.files import sha256_of_file
from efface.generation.folder import METADATA, read_folder
from efface.image_files import is_picture
from efface.judges.training.network import TrainSettings


@dataclass(frozen=True)
class Split:
    """Pictures with the index of their class.

    Attributes:
        classes: Names of the classes, sorted.
        learned: Pictures for training.
        held_out: Pictures for testing.
        hash: SHA-256 of the names, classes and bytes of all pictures.
    """

    classes: tuple[str, ...]
    learned: tuple[tuple[Path, int], ...]
    held_out: tuple[tuple[Path, int], ...]
    hash: str


def find_labelled_pictures(folder: Path, labels: str) -> list[tuple[Path, str]]:
    """Find every picture of a folder with its label.

    Args:
        folder: A folder of images with `metadata.jsonl`, or a tree of folders.
        labels: With `metadata.jsonl`, the column that has the label. In a tree, `style` for the first folder on the
            path of a picture and `object` for the last one, as in UnlearnCanvas' `STYLE/OBJECT/PICTURE`; in
            `LABEL/PICTURE` both are the same.

    Raises:
        BadInput: There are no such labels, or a picture has none.
        BadFile: There is no such folder.
    """
    if (folder / METADATA).is_file():
        images = read_folder(folder)
        if unlabelled := [image for image in images if not str(image.row.get(labels) or "").strip()]:
            known = ", ".join(unlabelled[0].row)
            name = unlabelled[0].row.get("file_name")
            raise BadInput(f"{name} has no '{labels}' in {folder / METADATA}; its columns are: {known}.")
        return [(image.path, str(image.row[labels])) for image in images if image.path]
    if labels not in ("style", "object"):
        raise BadInput(f"Unknown labels '{labels}': write style or object for folders, or a column of {METADATA}.")
    if not folder.is_dir():
        raise BadFile(f"Cannot read pictures from {folder}: it is not a folder.")
    paths = sorted(path for path in folder.rglob("*") if is_picture(path))
    pictures: list[tuple[Path, str]] = []
    for path in paths:
        *way, _ = path.relative_to(folder).parts
        if not way:
            raise BadInput(f"{path} is in no folder of {folder}; the label of a picture is its folder.")
        pictures.append((path, way[0] if labels == "style" else way[-1]))
    return pictures


def read_split(folder: Path, labels: str, settings: TrainSettings, seed: int, names: Sequence[str] = ()) -> Split:
    """The pictures of a folder, split for training and testing.

    If the folder has the folders `train` and `eval`, the first is for training and the second for testing. Otherwise a
    share of each class is held out.

    Args:
        folder: The pictures, or the folders `train` and `eval`, as `find_labelled_pictures` documents.
        labels: As for `find_labelled_pictures`.
        settings: The settings of the training, with the share to hold out.
        seed: The seed of the choice.
        names: Names of the classes whose labels are 0, 1, 2 and so on; empty if the labels are the names.

    Raises:
        BadInput: The labels or the classes cannot be used, or a picture is in both folders.
        BadFile: A picture cannot be read.
    """
    parts = (folder / "train", folder / "eval")
    if not all(part.is_dir() for part in parts):
        return split_pictures(_renamed(find_labelled_pictures(folder, labels), names), settings.held_out, seed)
    if "held_out" in settings.model_fields_set:
        raise BadInput(f"held_out is a share of one folder, but {folder} has train and eval; leave it out.")
    learned, held_out = (_renamed(find_labelled_pictures(part, labels), names) for part in parts)
    classes = _classes(learned)
    for name in sorted({label for _, label in held_out}.symmetric_difference(classes)):
        lacking, other = parts if name not in classes else parts[::-1]
        raise BadInput(
            f"{lacking} has no pictures of the class '{name}', which {other} has; both need the same classes."
        )
    digests = [{path: _digest(path) for path, _ in some} for some in (learned, held_out)]
    known = {digest: path for path, digest in digests[0].items()}
    for path, digest in digests[1].items():
        if digest in known:
            raise BadInput(
                f"{path} is the same picture as {known[digest]}; a test needs pictures that are not learned."
            )
    digest_of_all = hashlib.sha256(b"eval")
    for path, label in (*learned, *held_out):
        digest_of_all.update(f"{label}\0{path.relative_to(folder)}\0{(digests[0] | digests[1])[path]}\0".encode())
    return Split(
        tuple(classes),
        tuple((path, classes.index(label)) for path, label in learned),
        tuple((path, classes.index(label)) for path, label in held_out),
        digest_of_all.hexdigest(),
    )


def _renamed(pictures: list[tuple[Path, str]], names: Sequence[str]) -> list[tuple[Path, str]]:
    """The pictures with the names of their classes, where the labels are numbers.

    Raises:
        BadInput: A label is not the number of a name.
    """
    if not names:
        return pictures
    numbers = {str(number): name for number, name in enumerate(names)}
    for path, label in pictures:
        if label not in numbers:
            raise BadInput(
                f"{path} has the label '{label}', but names are given for 0 to {len(names) - 1}; add its name."
            )
    return [(path, numbers[label]) for path, label in pictures]


def _classes(pictures: Sequence[tuple[Path, str]]) -> list[str]:
    """The sorted labels.

    Raises:
        BadInput: There are fewer than two.
    """
    classes = sorted({label for _, label in pictures})
    if len(classes) < 2:
        raise BadInput(f"A judge distinguishes classes, but there is {len(classes)}; use pictures of two or more.")
    return classes


def _digest(path: Path) -> str:
    """SHA-256 of a picture's file.

    Raises:
        BadFile: It cannot be read.
    """
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise BadFile(f"Cannot learn from {path}: {error.strerror}; repair or remove it.") from error


def split_pictures(pictures: Sequence[tuple[Path, str]], share: float, seed: int) -> Split:
    """Hold out a share of each class, at least one picture.

    Args:
        pictures: The pictures with their labels.
        share: The share to hold out.
        seed: The seed of the choice.

    Raises:
        BadInput: There are fewer than two classes, or a class has fewer than two pictures.
        BadFile: A picture cannot be read.
    """
    classes = _classes(pictures)
    rng = np.random.default_rng(seed)
    learned: list[tuple[Path, int]] = []
    held_out: list[tuple[Path, int]] = []
    digest = hashlib.sha256()
    for index, name in enumerate(classes):
        paths = [path for path, label in pictures if label == name]
        if len(paths) < 2:
            raise BadInput(f"'{name}' has one picture only; two are needed, one for training and one for testing.")
        for path in paths:
            digest.update(f"{name}\0{path.name}\0{_digest(path)}\0".encode())
        n = min(max(math.ceil(share * len(paths)), 1), len(paths) - 1)
        for place, k in enumerate(rng.permutation(len(paths)).tolist()):
            (held_out if place < n else learned).append((paths[k], index))
    return Split(tuple(classes), tuple(learned), tuple(held_out), digest.hexdigest())
