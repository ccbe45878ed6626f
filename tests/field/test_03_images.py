"""Item 3: a picture is judged as it looks, whatever its file; blank pictures and other files are counted."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

import efface as library
from command_line import Efface
from efface import BadInput
from efface.image_files import pixels_of, read_picture

CAT = np.asarray(library.generate("a cat in 3d style", seed=1, steps=8).images[0])
#: The operation that makes a viewer show the picture upright, and its EXIF orientation.
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def cat() -> Image.Image:
    return Image.fromarray(CAT)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"cat{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    cat().transpose(ORIENTATIONS[orientation]).save(path, exif=exif, **options)
    assert np.array_equal(read_picture(path), CAT)


def _transparent(picture: Image.Image) -> Image.Image:
    """The picture with white pixels that are transparent, with black under them."""
    rgba = np.dstack((CAT, np.full(CAT.shape[:2], 255, np.uint8)))
    rgba[(CAT > 250).all(2)] = 0
    return Image.fromarray(rgba)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".gif"])
def test_what_is_transparent_is_white(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cat{suffix}"
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    half.putpixel((0, 0), (200, 100, 50, 255))
    options: dict[str, Any] = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    half.save(path, **options)
    pixels = read_picture(path)
    assert pixels[0, 0].tolist() == [200, 100, 50]
    assert (pixels[1:] == 255).all()


def test_transparency_of_palettes_and_of_single_colours(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 1), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "key.png", transparency=(1, 2, 3))
    Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "palette.png")[0, 0].tolist() == [255] * 3
    assert read_picture(tmp_path / "palette.png")[1, 1].tolist() == [10, 20, 30]
    assert (read_picture(tmp_path / "key.png") == 255).all()
    assert (read_picture(tmp_path / "grey.png") == 255).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_sixteen_bits(tmp_path: Path, suffix: str) -> None:
    grey = np.asarray(cat().convert("L"))
    path = tmp_path / f"cat{suffix}"
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    assert np.array_equal(read_picture(path), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_grey_of_floats(tmp_path: Path, scale: float) -> None:
    grey = np.asarray(cat().convert("L"))
    Image.fromarray(grey.astype(np.float32) * np.float32(scale)).save(tmp_path / "cat.tiff")
    assert np.array_equal(read_picture(tmp_path / "cat.tiff"), np.repeat(grey[..., None], 3, 2))


def test_a_colour_profile_is_applied(tmp_path: Path) -> None:
    lab = ImageCms.profileToProfile(
        cat(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    lab.save(tmp_path / "cat.tif")
    assert np.abs(read_picture(tmp_path / "cat.tif").astype(int) - CAT).mean() < 2
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    cat().save(tmp_path / "srgb.png", icc_profile=profile)
    cat().save(tmp_path / "damaged.png", icc_profile=b"no profile")
    assert np.array_equal(read_picture(tmp_path / "srgb.png"), CAT)
    assert np.array_equal(read_picture(tmp_path / "damaged.png"), CAT)


def eps(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def svg(path: Path) -> None:
    path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")


def ppm(path: Path) -> None:
    cat().save(path, format="PPM")


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(("write", "name"), [(eps, "EPS"), (svg, "SVG"), (ppm, "PPM"), (pointer, "a git-lfs pointer")])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_other_formats_are_named_and_not_opened(
    tmp_path: Path, write: Callable[[Path], None], name: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", None)  # nothing may start
    write(tmp_path / f"cat{suffix}")
    with pytest.raises(OSError, match=f"is {name}, and not a picture"):
        read_picture(tmp_path / f"cat{suffix}")


def test_the_folder_of_a_judge(tmp_path: Path, efface: Efface) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = ("a.png", "b.gif", "c.tif", "d.jfif", "e.avif", "f.bmp", "g.webp")
    for name in names:
        options: dict[str, Any] = {"quality": 95} if name == "d.jfif" else {}
        cat().save(folder / name, **options)
    cat().save(folder / "h.picture", format="PNG")
    Image.new("RGB", (64, 64)).save(folder / "i.png")
    Image.new("RGB", (64, 64), (250, 250, 250)).save(folder / "j.png")
    (folder / "notes.txt").write_text("a cat")
    eps(folder / "drawing.eps")
    ended = efface("judge", folder, "-q", "cat", "--json")
    assert ended.code == 0, ended
    result = ended.json()
    counts = result["questions"]["cat"]
    assert (counts["yes"], counts["no"], counts["broken"]) == (8, 0, 2)
    assert counts["rate"]["n"] == 8
    assert result["skipped"] == ["drawing.eps", "notes.txt"]
    assert "2 broken" in ended.err
    assert "drawing.eps, notes.txt" in ended.err


def test_images_in_memory_are_read_alike() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = cat().transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    asked = [cat(), turned, ImageOps.invert(ImageOps.invert(cat())), _transparent(cat())]
    verdicts = library.judge(asked, "cat").verdicts
    assert [verdict.answer for verdict in verdicts] == ["yes"] * 4
    blank = library.judge([np.full((64, 64, 3), 7, np.uint8)], "cat")
    assert json.loads(json.dumps(blank.to_json()))["questions"]["cat"]["broken"] == 1


def grey_tiff(path: Path, values: list[int], bits: int, photometric: int) -> None:
    """Write one row of grey values: 12 bits without gaps, others as whole bytes."""
    packed = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(bits * len(values) // 8, "big")
    data = np.array(values, "<u2").tobytes() if bits == 16 else packed
    tags = [(256, len(values)), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1), (278, 1)]
    tags += [(279, len(data))]
    place = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, place if tag == 273 else value) for tag, value in tags)
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data)


@pytest.mark.parametrize(
    ("bits", "whole", "photometric"), [(16, 65535, 0), (16, 65535, 1), (12, 4095, 1), (8, 255, 0), (8, 255, 1)]
)
def test_grey_tiff_of_any_depth_and_with_0_for_white(tmp_path: Path, bits: int, whole: int, photometric: int) -> None:
    grey_tiff(tmp_path / "row.tif", [0, whole // 5, whole, whole // 3], bits, photometric)
    row = [0, 51, 255, 85] if photometric else [255, 204, 0, 170]
    assert read_picture(tmp_path / "row.tif")[0, :, 0].tolist() == row


@pytest.mark.parametrize("transparent", [0, 65535])
def test_grey_of_sixteen_bits_with_a_transparent_value(tmp_path: Path, transparent: int) -> None:
    values = np.array([[transparent, 257 * 100], [257 * 30, 257 * 200]], np.uint16)
    Image.fromarray(values).save(tmp_path / "cat.png")
    content = (tmp_path / "cat.png").read_bytes()
    chunk = b"tRNS" + struct.pack(">H", transparent)
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    at = content.index(b"IDAT") - 4
    (tmp_path / "cat.png").write_bytes(content[:at] + chunk + content[at:])
    assert read_picture(tmp_path / "cat.png")[..., 0].tolist() == [[255, 100], [30, 200]]


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_arrays_as_diffusers_returns_them(kind: str) -> None:
    batch = (CAT / 255)[None].astype(kind)
    assert [verdict.answer for verdict in library.judge(batch, "cat").verdicts] == ["yes"]
    bytes_again = library.judge([CAT], "cat").verdicts[0].score
    assert library.judge(batch, "cat").verdicts[0].score == pytest.approx(bytes_again, abs=1e-3)


@pytest.mark.parametrize("kind", [np.int64, np.int16, np.uint16, np.uint32])
def test_arrays_of_bytes_of_a_larger_type(kind: type) -> None:
    assert pixels_of(CAT.astype(kind)).tolist() == CAT.tolist()
    assert pixels_of(CAT.astype(kind)).dtype == np.uint8


@pytest.mark.parametrize(
    "array",
    [CAT.astype(np.uint16) * 257, CAT.astype(np.float32), CAT / 127.5 - 1, CAT.astype(np.int64) - 256, CAT > 128],
)
def test_arrays_of_other_numbers_are_rejected(array: Any) -> None:
    with pytest.raises(BadInput, match="Image 0: its numbers are of the type"):
        library.judge([array], "cat")


def test_folders_of_images_in_a_folder_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "more").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "more" / "b.png"):
        cat().save(path)
    assert len(library.judge(tmp_path, "cat").verdicts) == 1
    assert str(tmp_path / "more") in caplog.text
