"""Labelled pictures for training a judge: found in folders, and split into those learned from and those held out."""

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
        learned: Pictures to learn from.
        held_out: Pictures to test on.
        hash: SHA-256 over names, classes and bytes of all of them.
    """

    classes: tuple[str, ...]
    learned: tuple[tuple[Path, int], ...]
    held_out: tuple[tuple[Path, int], ...]
    hash: str


def labelled(folder: Path, labels: str) -> list[tuple[Path, str]]:
    """Every picture with its label.

    Args:
        folder: A folder of images with `metadata.jsonl`, whose column `labels` is the label; else a tree of folders.
        labels: `style` is then the first folder on a picture's way, `object` the last one, as in UnlearnCanvas'
            `STYLE/OBJECT/PICTURE`; in `LABEL/PICTURE` they are the same.

    Raises:
        BadInput: There is no such folder or label, or a picture without one.
    """
    if (folder / METADATA).is_file():
        images = read_folder(folder)
        if unlabelled := [image for image in images if not str(image.row.get(labels) or "").strip()]:
            known = ", ".join(unlabelled[0].row)
            name = unlabelled[0].row.get("file_name")
            raise BadInput(f"{name} has no '{labels}' in {folder / METADATA}; its columns are: {known}.")
        return [(image.path, str(image.row[labels])) for image in images if image.path]
    if labels not in ("style", "object"):
        raise BadInput(f"Unknown labels '{labels}': folders give style or object, {METADATA} its columns.")
    if not folder.is_dir():
        raise BadFile(f"Cannot read pictures from {folder}: it is not a folder.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    found: list[tuple[Path, str]] = []
    for path in paths:
        *way, _ = path.relative_to(folder).parts
        if not way:
            raise BadInput(f"{path} lies in no folder of {folder}; a picture's folder is its label.")
        found.append((path, way[0] if labels == "style" else way[-1]))
    return found


def split(pictures: Sequence[tuple[Path, str]], share: float, seed: int) -> Split:
    """Hold out a share of each class, at least one picture.

    Raises:
        BadInput: There are fewer than two classes, a class has fewer than two pictures, or one cannot be read.
    """
    classes = sorted({label for _, label in pictures})
    if len(classes) < 2:
        raise BadInput(f"A judge tells classes apart, but there is {len(classes)}; give pictures of two or more.")
    rng = np.random.default_rng(seed)
    learned: list[tuple[Path, int]] = []
    held_out: list[tuple[Path, int]] = []
    digest = hashlib.sha256()
    for index, name in enumerate(classes):
        mine = [path for path, label in pictures if label == name]
        if len(mine) < 2:
            raise BadInput(f"'{name}' has one picture only; two are needed, one to learn from and one to test on.")
        for path in mine:
            try:
                digest.update(f"{name}\0{path.name}\0{sha256_of_file(path)}\0".encode())
            except OSError as error:
                raise BadFile(f"Cannot learn from {path}: {error.strerror}; mend it, or leave it out.") from error
        n = min(max(math.ceil(share * len(mine)), 1), len(mine) - 1)
        for place, k in enumerate(rng.permutation(len(mine)).tolist()):
            (held_out if place < n else learned).append((mine[k], index))
    return Split(tuple(classes), tuple(learned), tuple(held_out), digest.hexdigest())
