"""The cache of the unedited model's images: content-addressed, so that no two evaluations ever make one twice.

It lies in the folder that the environment variable `EFFACE_CACHE` names, else in the user's cache folder.
"""

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efface.errors import BadFile
from efface.files import atomic, cache_folder
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
    place = _place(key)
    with suppress(OSError, BadFile):
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic(place) as temporary:
            if isinstance(picture, Path):
                shutil.copyfile(picture, temporary)
            else:
                write_picture(temporary, picture)


def _place(key: str) -> Path:
    return cache_folder() / "images" / key[:2] / f"{key}.png"
