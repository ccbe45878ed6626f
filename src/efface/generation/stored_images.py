"""Images that exist already: of an earlier run, of another machine or of another program, found by prompt and seed.

An image that efface generated must agree in every setting that decides its pixels, except for what depends on the
machine: the versions of the libraries, the device and the floating-point type. An image of another program must agree
in the settings that its row of `metadata.jsonl` has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from efface.errors import BadFile
from efface.generation.folder import Image, Row, file_name, read_folder, read_folders
from efface.generation.rows import is_own

_SETTINGS = (
    *("eraser", "strength", "model_hash", "sampler", "steps", "guidance", "negative", "clip_skip", "width", "height"),
    *("eta", "embedding"),
)
#: What a row has of its own image, whatever the machine that asks for it.
_OF_IMAGE = ("precision", "libraries", "key")


class StoredImages:
    """The images of a folder.

    Args:
        folder: The folder, with prompts and seeds in its `metadata.jsonl`.
        subfolders: Whether images of folders below it count too.
        complete: Whether every image that is asked for must be there.

    Raises:
        BadFile: There is no such folder, or no image with a prompt and a seed.
    """

    def __init__(self, folder: Path, *, subfolders: bool = False, complete: bool = False) -> None:
        self.folder, self._complete = folder, complete
        images = (read_folders if subfolders else read_folder)(folder)
        self._images: dict[tuple[object, object], list[Image]] = {}
        for image in images:
            if "prompt" in image.row and "seed" in image.row:
                self._images.setdefault((image.row["prompt"], image.row["seed"]), []).append(image)
        if not self._images:
            raise BadFile(f"{folder} has no metadata.jsonl with the prompt and the seed of each image; add one.")
        self._read: set[Path] = set()

    def find(self, row: Row, size: tuple[int, int] | None = None) -> Image | None:
        """Find the image of a row of metadata; None if it is not there.

        Args:
            row: The metadata that the image would have if it was generated now (`Recipe.row`).
            size: The height and width that it must have; None for any.

        Returns:
            The image, or its error. Its row has the key, the precision and the libraries that it was made with.

        Raises:
            BadFile: The image was made with other settings, its file cannot be read or has another size, or it is
                missing from a complete folder.
        """
        candidates = self._images.get((row["prompt"], row["seed"]), [])
        image = next((image for image in candidates if _differs(image.row, row) is None), None)
        what = f"the image of '{row['prompt']}' with seed {row['seed']}"
        if image is None and candidates:
            name = str(_differs(candidates[0].row, row))
            stored, new = (_shown(each.get(name)) for each in (candidates[0].row, row))
            raise BadFile(f"{self.folder} has {what} with {name} {stored} instead of {new}; generate it again.")
        if image is None:
            if self._complete:
                raise BadFile(f"{self.folder} does not have {what}; generate it first.")
            return None
        adopted = {**row, **{name: image.row[name] for name in _OF_IMAGE if name in image.row}}
        adopted["file_name"] = file_name(str(row["prompt"]), int(row["seed"]), str(adopted["key"]))
        self._check(image, size)
        return replace(image, row=adopted)

    def _check(self, image: Image, size: tuple[int, int] | None) -> None:
        """Check once that the picture can be read and has the size."""
        if image.path is None or image.path in self._read:
            return
        try:
            height, width = image.pixels().shape[:2]
        except OSError as error:
            raise BadFile(f"Cannot read {image.path}: {error}; remove it, and generate it again.") from error
        if size not in (None, (height, width)):
            raise BadFile(f"{image.path} has {width}x{height} pixels; the model's images have {size[1]}x{size[0]}.")
        self._read.add(image.path)


def _differs(stored: Row, row: Row) -> str | None:
    """The name of the first setting in which a stored image differs; None if there is none."""
    names: Sequence[str] = _SETTINGS if is_own(stored) else [name for name in _SETTINGS if name in stored]
    return next((name for name in names if stored.get(name) != row.get(name)), None)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)[:12]
