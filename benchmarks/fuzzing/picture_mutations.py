"""Mutations of pictures."""

from __future__ import annotations

import io
import random
import struct
import zlib

from fuzzing.text_mutations import damaged


def png(content: bytes, draw: random.Random) -> bytes:
    """A PNG with another header, chunk or kind of file."""
    kind = draw.randrange(4)
    if kind == 0:
        width, height = draw.choice(
            ((0, 1), (10**5, 10**5), (2**31 - 1, 1), (20_000, 10_000), (9_000, 9_000), (64, 64))
        )
        depth, mode = draw.choice(((8, 2), (16, 0), (1, 3), (8, 6), (3, 9)))
        header = struct.pack(">IIBBBBB", width, height, depth, mode, 0, 0, 0)
        chunk = b"IHDR" + header
        return content[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]
    if kind == 1:
        text = draw.choice((b"zTXta\0\0" + zlib.compress(bytes(10**7)), b"iCCPa\0\0xx", b"eXIf" + bytes(40), b"tRNSx"))
        return (
            content[:33] + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + content[33:]
        )
    if kind == 2:
        start = draw.choice(
            (b"GIF89a", b"II*\0", b"BM", b"RIFF\0\0\0\0WEBP", b"\0\0\0\x1cftypavif", b"\xff\xd8\xff\xe0", b"%!PS")
        )
        return start + content[len(start) :]
    return damaged(content, draw)


def picture(content: bytes, draw: random.Random) -> bytes:
    """The picture in another format, damaged."""
    from PIL import Image

    file = io.BytesIO()
    image = Image.open(io.BytesIO(content)).convert(draw.choice(("RGB", "RGBA", "L", "P", "1")))
    kinds = {
        "RGB": ("JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"),
        "RGBA": ("WEBP", "TIFF", "GIF"),
        "L": ("JPEG", "TIFF", "BMP"),
    }
    image.save(file, format=draw.choice(kinds.get(image.mode, ("GIF", "TIFF", "BMP"))))
    return damaged(file.getvalue(), draw)
