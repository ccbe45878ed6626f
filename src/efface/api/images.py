"""The images that a verb takes: a folder, the result of `efface.generate`, or pictures in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efface.api.generate import GenerateResult
from efface.errors import BadInput
from efface.generation import Image, read_folder
from efface.generation.folder import read_folders
from efface.image_files import as_rgb

if TYPE_CHECKING:
    from typing import TypeAlias

    from PIL import Image as Pictures

    ImagesLike: TypeAlias = Path | str | GenerateResult | Sequence[Pictures.Image | NDArray[np.uint8] | Image]


def images_from(images: ImagesLike, below: bool = False) -> Sequence[Image]:
    """The images as images of a folder.

    Args:
        images: A folder, the result of `efface.generate`, or images.
        below: Whether to include all folders below the folder.

    Raises:
        BadInput: There is no image, or one has another shape.
    """
    if isinstance(images, GenerateResult):
        return images.outcomes
    if isinstance(images, (str, Path)):
        return read_folders(Path(images)) if below else read_folder(Path(images))
    if not len(images):
        raise BadInput("There is no image; give at least one.")
    return [_image(image, index) for index, image in enumerate(images)]


def _image(image: Pictures.Image | NDArray[np.uint8] | Image, index: int) -> Image:
    """An image in memory, whose file name is its number."""
    if isinstance(image, Image):
        return image
    array = np.asarray(image if isinstance(image, np.ndarray) else as_rgb(image), dtype=np.uint8)
    if array.ndim != 3 or array.shape[2] != 3:
        raise BadInput(f"Image {index} has the shape {array.shape}; give arrays (height, width, 3) of bytes.")
    return Image({"file_name": str(index)}, None, None, array)
