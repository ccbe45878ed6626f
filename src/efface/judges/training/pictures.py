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
from efface.generation.folder import METADATA, SUFFIXES, read_folder


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
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    pictures: list[tuple[Path, str]] = []
    for path in paths:
        *way, _ = path.relative_to(folder).parts
        if not way:
            raise BadInput(f"{path} is in no folder of {folder}; the label of a picture is its folder.")
        pictures.append((path, way[0] if labels == "style" else way[-1]))
    return pictures


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
    classes = sorted({label for _, label in pictures})
    if len(classes) < 2:
        raise BadInput(f"A judge distinguishes classes, but there is {len(classes)}; use pictures of two or more.")
    rng = np.random.default_rng(seed)
    learned: list[tuple[Path, int]] = []
    held_out: list[tuple[Path, int]] = []
    digest = hashlib.sha256()
    for index, name in enumerate(classes):
        paths = [path for path, label in pictures if label == name]
        if len(paths) < 2:
            raise BadInput(f"'{name}' has one picture only; two are needed, one for training and one for testing.")
        for path in paths:
            try:
                digest.update(f"{name}\0{path.name}\0{sha256_of_file(path)}\0".encode())
            except OSError as error:
                raise BadFile(f"Cannot learn from {path}: {error.strerror}; repair or remove it.") from error
        n = min(max(math.ceil(share * len(paths)), 1), len(paths) - 1)
        for place, k in enumerate(rng.permutation(len(paths)).tolist()):
            (held_out if place < n else learned).append((paths[k], index))
    return Split(tuple(classes), tuple(learned), tuple(held_out), digest.hexdigest())
