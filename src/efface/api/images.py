"""The images that a verb takes: a folder, the result of `efface.generate`, or pictures in memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from efface.api.generate import GenerateResult
from efface.errors import BadInput
from efface.files import sha256_of_file
from efface.generation import Image, read_folder
from efface.generation.folder import has_images, read_folders
from efface.generation.rows import is_own
from efface.image_files import pixels_of

_LOGGER = logging.getLogger("efface")

if TYPE_CHECKING:
    from typing import TypeAlias

    from PIL import Image as Pictures

    ImagesLike: TypeAlias = Path | str | GenerateResult | NDArray[Any] | Sequence[Pictures.Image | NDArray[Any] | Image]


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
        read = read_folders(Path(images)) if below else read_folder(Path(images))
        _log_what_is_unexpected(Path(images), read, below)
        return read
    if not len(images):
        raise BadInput("There is no image; give at least one.")
    return [_image(image, index) for index, image in enumerate(images)]


def _log_what_is_unexpected(folder: Path, images: Sequence[Image], below: bool) -> None:
    """Log which images are not as they were generated, and which folders with images are not read."""
    changed = [image for image in images if _is_changed(image)]
    if changed:
        count = f"{len(changed)} of {len(images)}"
        _LOGGER.warning("Images changed after they were generated: %s, the first is %s.", count, changed[0].path)
    others = [] if below else [other for other in sorted(folder.iterdir()) if _is_of_images(other)]
    if others:
        _LOGGER.warning("%s has folders of images that are not read, the first is %s.", folder, others[0])


def _is_of_images(folder: Path) -> bool:
    """Whether a path is a folder of images, as far as it can be read."""
    try:
        return folder.is_dir() and has_images(folder)
    except OSError:
        return False


def _is_changed(image: Image) -> bool:
    """Whether efface generated an image and its file has another SHA-256 than recorded."""
    recorded = image.row.get("sha256") if is_own(image.row) else None
    return bool(recorded and image.path and image.path.is_file() and sha256_of_file(image.path) != recorded)


def _image(image: Pictures.Image | NDArray[Any] | Image, index: int) -> Image:
    """An image in memory, whose file name is its number."""
    if isinstance(image, Image):
        return image
    try:
        return Image({"file_name": str(index)}, None, None, pixels_of(image))
    except ValueError as error:
        raise BadInput(f"Image {index}: {error}; give PIL images, or arrays (height, width, 3) of bytes.") from error
