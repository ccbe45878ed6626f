"""The cache of the unedited model's images: content-addressed, so that no two evaluations ever make one twice.

It lies in the folder that the environment variable `EFFACE_CACHE` names, else in the user's cache folder.
"""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efface.files import cache_folder, keep_in_cache
from efface.generate.folder import read_picture, write_picture


def cached(key: str) -> NDArray[np.uint8] | None:
    """The image of this key, if it was ever kept and is still whole."""
    try:
        return read_picture(_place(key))
    except OSError:
        return None


def is_kept(key: str) -> bool:
    """Whether the cache has a file of this key, whole or not."""
    return _place(key).exists()


def keep(key: str, picture: Path | NDArray[np.uint8]) -> None:
    """Put a picture, or its file, into the cache; a cache that cannot be written is no reason to stop."""
    if isinstance(picture, Path):
        keep_in_cache(_place(key), lambda path: shutil.copyfile(picture, path))
    else:
        keep_in_cache(_place(key), lambda path: write_picture(path, picture))


def _place(key: str) -> Path:
    return cache_folder() / "images" / key[:2] / f"{key}.png"
