"""Reading pictures: the one place where image files are decoded.

A picture is read as it looks in a viewer: turned by its EXIF orientation, on white where it is transparent, in sRGB and
with 8 bits of the range of its own depth. Of an animation, the first frame is read. The content of a file decides its
format; formats whose readers start other programs, such as EPS, are rejected.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from efface.parsing import reason_of

#: A picture, of shape (H, W, 3), or several of one size, of shape (n, H, W, 3).
Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
#: The usual names of pictures. Files with other names are pictures if their content is.
SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".dib", ".avif",
})  # fmt: skip
#: The first bytes of the formats that are read, and what they mean.
_MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"BM")
_BOXES = {b"WEBP": (b"RIFF", 0), b"avif": (b"ftyp", 4), b"avis": (b"ftyp", 4)}
_OTHERS = {
    b"%!PS": "EPS", b"\xc5\xd0\xd3\xc6": "EPS", b"%PDF": "PDF", b"8BPS": "PSD", b"PK\x03\x04": "a ZIP archive",
    b"version https://git-lfs": "a git-lfs pointer", b"<svg": "SVG", b"<?xml": "XML", b"<!DOCTYPE": "HTML",
    b"<html": "HTML", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL": "JPEG XL", b"P6": "PPM", b"qoif": "QOI",
}  # fmt: skip
_BLANK_VARIANCE = 4.0
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_MOST_PIXELS, _FEW_PIXELS = 100_000_000, 16_000_000
_AVERAGED = ("L", "LA", "RGB", "RGBA", "CMYK", "LAB", "YCbCr")


def read_picture(path: Path) -> Pixels:
    """Read a picture file, as an array of shape (H, W, 3).

    Raises:
        OSError: The file is missing, damaged or of another format; the message names the format.
    """
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is another one
            return _decoded(picture)
    except UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise OSError(f"{path.name} is {_format_of(path)}, and not a picture of the formats {formats}") from error
    except Exception as error:  # a damaged file can raise anything in a decoder
        raise OSError(f"{path.name}: {reason_of(error)}") from error


def _reduced(picture: Image.Image) -> Image.Image:
    """A picture of at most 16 megapixels, scaled down by a whole number where it has more.

    Judges look at pictures of less than one megapixel, and metrics at still smaller ones.

    Raises:
        ValueError: It has 100 megapixels or more.
    """
    width, height = picture.size
    if width * height >= _MOST_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels; the limit is {_MOST_PIXELS // 1_000_000} megapixels")
    factor = math.ceil(math.sqrt(width * height / _FEW_PIXELS))
    if factor < 2:
        return picture
    size = (max(width // factor, 1), max(height // factor, 1))
    exif = picture.getexif()
    picture.draft(None, size)  # a JPEG is decoded at an eighth, a quarter or half of its size
    if picture.mode == "P":
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    small = picture.resize(size, Image.Resampling.BOX if picture.mode in _AVERAGED else Image.Resampling.NEAREST)
    small.format, small.info = picture.format, picture.info
    small.getexif().update(exif)
    return small


def _as_rgb(picture: Image.Image, bits: int) -> Image.Image:
    """A picture in RGB, as it looks in a viewer.

    Args:
        picture: A picture of any mode.
        bits: The number of bits of a whole grey value of more than 8 bits.

    Raises:
        ValueError: Its numbers have no range that is known.
    """
    is_png = picture.format == "PNG"
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(picture, is_png, bits)).convert("RGB")
    profile = picture.info.get("icc_profile")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    return _in_srgb(picture, profile)


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, by its name or else by its content."""
    if not path.is_file() or path.name.startswith("."):
        return False
    return path.suffix.lower() in SUFFIXES or _has_picture(_head(path))


def is_blank(pixels: Pixels) -> bool:
    """Whether a picture (H, W, 3) is of one colour, up to a standard deviation of 2 of 255."""
    return float(np.mean([pixels[..., c].var(dtype=np.float64) for c in range(pixels.shape[2])])) < _BLANK_VARIANCE


def pixels_of(image: Image.Image | NDArray[Any]) -> Pixels:
    """The pixels of a picture in memory, of shape (H, W, 3).

    Args:
        image: A picture of any mode, or an array (H, W, 3) of whole numbers from 0 to 255 of any integer type, or of
            real numbers from 0 to 1, as pipelines of diffusers return them with `output_type="np"`.

    Raises:
        ValueError: The array has another shape, or other numbers.
    """
    array = image if isinstance(image, np.ndarray) else _decoded(image)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"it has the shape {array.shape}")
    if array.dtype == np.uint8:
        return array
    full = {"i": 255, "u": 255, "f": 1}.get(array.dtype.kind)
    if full is None or not array.size or not (array.min() >= 0 and array.max() <= full):
        reason = "neither whole from 0 to 255 nor real from 0 to 1"
        raise ValueError(f"its numbers are of the type {array.dtype}, and {reason}")
    return np.round(array * (255 / full)).astype(np.uint8)


def _decoded(picture: Image.Image) -> Pixels:
    """The pixels of a picture of any mode, (H, W, 3)."""
    pixels = np.asarray(_as_rgb(_reduced(picture), _bits(picture)), dtype=np.uint8)
    return 255 - pixels if _is_negative(picture) else pixels


def _bits(picture: Image.Image) -> int:
    """The number of bits of a grey value of a TIFF file, such as 12; of other files 16."""
    stored = picture.tag_v2.get(_BITS_PER_SAMPLE) if isinstance(picture, TiffImageFile) else None
    return stored[0] if isinstance(stored, tuple) and len(stored) == 1 and 8 < stored[0] < 16 else 16


def _is_negative(picture: Image.Image) -> bool:
    """Whether a TIFF file of more than 8 bits has 0 for white; Pillow inverts those of 8 bits."""
    if not isinstance(picture, TiffImageFile) or not picture.mode.startswith(("I", "F")):
        return False
    return picture.tag_v2.get(_PHOTOMETRIC) == 0


def _eight_bits(picture: Image.Image, is_png: bool, bits: int) -> NDArray[np.uint8]:
    """Grey values of more than 8 bits, (H, W), scaled from their full range to 0 to 255; a transparent one is white."""
    values = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("its numbers are negative or not finite")
    if picture.mode == "F":
        full = 1.0 if values.max() <= 1 else 255.0
    else:
        # Pillow reads grey PNGs of 16 bits as 32 bits in some versions.
        sixteen = picture.mode.startswith("I;16") or is_png or values.max() <= 65535
        full = 2.0**bits - 1 if sixteen else 2.0**32 - 1
    if values.max() > full:
        raise ValueError(f"its numbers are above {full:g}")
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        values = np.where(values == transparent, full, values)
    return np.round(values * (255 / full)).astype(np.uint8)


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a picture to RGB, by its colour profile if it has one for another space than sRGB."""
    mode = picture.mode if picture.mode in ("RGB", "CMYK", "L", "LAB") else "RGB"
    picture = picture.convert(mode) if picture.mode != mode else picture
    try:
        if mode == "LAB":
            source = ImageCms.createProfile("LAB")
        elif profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            return picture.convert("RGB")
        if mode != "LAB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return picture.convert("RGB")
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a profile that is damaged or of another mode, which viewers ignore too
        return picture.convert("RGB")
    assert converted is not None, "a copy, since inPlace is false"
    return converted


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32)


def _has_picture(head: bytes) -> bool:
    boxes = (head[8:12] == kind and head[at:].startswith(start) for kind, (start, at) in _BOXES.items())
    return head.startswith(_MAGIC) or any(boxes)


def _format_of(path: Path) -> str:
    head = _head(path)
    if _has_picture(head):
        return "damaged"
    if head[4:8] == b"ftyp":
        return "HEIC or a video"
    known = (name for start, name in _OTHERS.items() if head.lstrip().startswith(start))
    return next(known, "empty" if not head else "of an unknown format")
