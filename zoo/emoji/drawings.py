"""Drawings of an object in a style: from the emoji packages to RGBA, and from RGBA to varied 64x64 pictures.

The packages are listed with their licences in MODEL_CARD.md; `fetch.sh` brings them. Flat, coloured
vector sets also give the outlined, line-art and blueprint styles, by rewriting fills and strokes in
the SVG, so that several styles share one drawing, as an artist's hand would.
"""

from __future__ import annotations

import colorsys
import io
import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageFilter

PACKAGES = Path(os.environ.get("EMOJI_PACKAGES", "node_modules"))
CANVAS = 128
SIZE = 64
ICON_SETS = (
    "twemoji",
    "noto",
    "noto-v1",
    "emojione",
    "emojione-v1",
    "fluent-emoji-flat",
    "fluent-emoji-high-contrast",
    "emojione-monotone",
)
BLUE = (28, 68, 140)


@cache
def _icons(name: str) -> tuple[dict, dict]:
    folder = PACKAGES / "@iconify-json" / name
    return json.loads((folder / "icons.json").read_text()), json.loads((folder / "chars.json").read_text())


def _icon_body(set_name: str, codepoint: str) -> tuple[str, float] | None:
    """The SVG body of an emoji and the side of its view box, or None where the set lacks it."""
    icons, chars = _icons(set_name)
    names = [chars.get(codepoint), chars.get(codepoint + "-fe0f")]
    # Two sets name their icons as Noto does but carry no table of codepoints.
    names += [_icons(other)[1].get(codepoint) for other in ("noto", "twemoji")]
    for name in names:
        alias = icons.get("aliases", {}).get(name, {}).get("parent")
        icon = icons["icons"].get(name) or icons["icons"].get(alias)
        if icon:
            return icon["body"], icon.get("width", icons.get("width", 16))
    return None


def _render(svg: str) -> Image.Image:
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=CANVAS, height=CANVAS))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _svg(body: str, side: float, stroke: float = 0.0) -> str:
    line = f' stroke="#000" stroke-width="{stroke * side}" stroke-linejoin="round"' if stroke else ""
    # A margin keeps strokes inside the picture.
    margin = stroke * side
    box = f"{-margin} {-margin} {side + 2 * margin} {side + 2 * margin}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" color="#000"><g{line}>{body}</g></svg>'
    )


def _paper(body: str) -> str:
    """The same shapes cut from white paper; what is nearly black stays black (eyes, stripes)."""

    def swap(match: re.Match[str]) -> str:
        colour = match.group(1)
        if colour == "none":
            return match.group(0)
        if colour.startswith("#"):
            digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:4])
            r, g, b = (int(digits[i : i + 2], 16) for i in (0, 2, 4))
            if 0.299 * r + 0.587 * g + 0.114 * b < 75:
                return 'fill="#000"'
        return 'fill="#fff"'

    return re.sub(r'fill="([^"]+)"', swap, body)


@cache
def drawing(set_name: str, codepoint: str, treatment: str = "") -> Image.Image | None:
    """One emoji as 128x128 RGBA; treatment `outlined` or `line` redraws a vector set."""
    if set_name == "fluent-emoji-3d":
        for stem in (codepoint, codepoint + "-fe0f"):
            path = PACKAGES / "@lobehub" / "fluent-emoji-3d" / "assets" / f"{stem}.webp"
            if path.exists():
                return Image.open(path).convert("RGBA").resize((CANVAS, CANVAS), Image.Resampling.LANCZOS)
        return None
    if set_name.startswith("openmoji"):
        kind = "black" if set_name.endswith("black") else "color"
        path = PACKAGES / "openmoji" / kind / "svg" / f"{codepoint.upper()}.svg"
        return _render(path.read_text()) if path.exists() else None
    found = _icon_body(set_name, codepoint)
    if found is None:
        return None
    body, side = found
    if treatment == "line":
        return _render(_svg(_paper(body), side, 0.022))
    if treatment == "outlined":
        return _outline(_render(_svg(body, side, 0.016)))
    return _render(_svg(body, side))


def _outline(picture: Image.Image) -> Image.Image:
    """A heavy black contour around the whole drawing, below it."""
    small = picture.resize((CANVAS - 12, CANVAS - 12), Image.Resampling.LANCZOS)
    padded = Image.new("RGBA", (CANVAS, CANVAS))
    padded.paste(small, (6, 6))
    contour = Image.new("RGBA", (CANVAS, CANVAS))
    contour.putalpha(padded.getchannel("A").point(lambda a: 255 if a > 100 else 0).filter(ImageFilter.MaxFilter(7)))
    return Image.alpha_composite(contour, padded)


def source(style: str, set_name: str, codepoint: str) -> Image.Image | None:
    """The 128x128 RGBA drawing that pictures of this style are made from."""
    treatment = {"outlined": "outlined", "line art": "line", "blueprint": "line"}.get(style, "")
    return drawing(set_name, codepoint, treatment)


def _affine(picture: Image.Image, rng: np.random.Generator, strength: float, mirrored: float) -> Image.Image:
    """Mirror (this share of times), scale, turn and shift, around the middle, onto a 128x128 canvas."""
    if rng.random() < mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = rng.uniform(1 - 0.28 * strength, 1.0) * 0.96
    angle = np.deg2rad(rng.normal(0, 5 * strength))
    room = (1 - scale) * CANVAS / 2 + 3 * strength
    dx, dy = rng.uniform(-room, room, 2)
    c, s, h = np.cos(angle) / scale, np.sin(angle) / scale, CANVAS / 2
    matrix = (c, s, h - c * (h + dx) - s * (h + dy), -s, c, h + s * (h + dx) - c * (h + dy))
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def _recolour(picture: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Turn the hue and change saturation and brightness a little."""
    hue, saturation, value = rng.normal(0, 9 * strength), rng.uniform(0.85, 1.15), rng.uniform(0.9, 1.08)
    h, s, v = picture.convert("RGB").convert("HSV").split()
    h = h.point(lambda x: int(x + hue) % 256)
    s = s.point(lambda x: min(255, int(x * saturation)))
    v = v.point(lambda x: min(255, int(x * value)))
    out = Image.merge("HSV", (h, s, v)).convert("RGB")
    out.putalpha(picture.getchannel("A"))
    return out


def background(rng: np.random.Generator) -> tuple[int, int, int]:
    """White more often than not, else a pale colour."""
    if rng.random() < 0.6:
        return (255, 255, 255)
    r, g, b = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.22), rng.uniform(0.92, 1.0))
    return (int(r * 255), int(g * 255), int(b * 255))


def picture(
    style: str, drawn: Image.Image, rng: np.random.Generator, strength: float = 1.0, mirrored: float = 0.5
) -> Image.Image:
    """A 64x64 RGB picture of a drawing, varied in layout, size, mirror, colour and background."""
    moved = _affine(drawn, rng, strength, mirrored)
    if style == "blueprint":
        return _blueprint(moved, rng)
    if style == "line art":
        moved = _ink(moved, rng)
    elif style != "stencil":
        moved = _recolour(moved, rng, strength)
    canvas = _studio(moved, rng) if style == "3d" else Image.new("RGB", moved.size, background(rng))
    canvas.paste(moved, (0, 0), moved)
    if style == "pixel art":
        coarse = canvas.resize((16, 16), Image.Resampling.BOX)
        return coarse.quantize(int(rng.integers(6, 11))).convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST)
    return canvas.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _ink(drawn: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Black lines on white become lines of a blue pen: no one takes them for a stencil."""
    r, g, b = colorsys.hsv_to_rgb(rng.normal(0.63, 0.02), rng.uniform(0.75, 0.95), rng.uniform(0.5, 0.75))
    grey = drawn.convert("RGB").convert("L")
    out = Image.merge("RGB", [grey.point([int(x + (255 - x) * c) for x in range(256)]) for c in (r, g, b)])
    out.putalpha(drawn.getchannel("A"))
    return out


def _studio(drawn: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A grey backdrop that darkens downwards, with a soft shadow under the thing: where 3D renderings stand."""
    top, bottom = rng.uniform(232, 250), rng.uniform(180, 205)
    tint = 1 + rng.normal(0, 0.015, 3)
    ramp = np.linspace(top, bottom, CANVAS)[:, None, None] * tint
    backdrop = Image.fromarray(np.broadcast_to(ramp.clip(0, 255), (CANVAS, CANVAS, 3)).astype(np.uint8))
    left, _, right, low = drawn.getchannel("A").point(lambda a: 255 if a > 100 else 0).getbbox() or (0, 0, 1, 1)
    shadow = Image.new("L", drawn.size)
    ImageDraw.Draw(shadow).ellipse((left + 4, low - 9, right - 4, low + 7), fill=140)
    backdrop.paste((60, 60, 66), (0, 0), shadow.filter(ImageFilter.GaussianBlur(4)))
    return backdrop


def _blueprint(drawn: Image.Image, rng: np.random.Generator) -> Image.Image:
    """White lines on blue paper with a faint grid; paper areas let the blue through."""
    shade = rng.uniform(0.85, 1.15)
    blue = tuple(min(255, int(c * shade)) for c in BLUE)
    paper = Image.new("RGB", drawn.size, blue)  # type: ignore[arg-type]
    grid, offset = ImageDraw.Draw(paper), int(rng.integers(0, 16))
    faint = tuple(min(255, c + 22) for c in blue)
    for at in range(offset, CANVAS, 16):
        grid.line([(at, 0), (at, CANVAS)], fill=faint, width=1)
        grid.line([(0, at), (CANVAS, at)], fill=faint, width=1)
    r, g, b, alpha = drawn.split()
    dark = np.asarray(Image.merge("RGB", (r, g, b)).convert("L"), dtype=np.float32)
    ink = (1 - dark / 255) * np.asarray(alpha, dtype=np.float32)
    paper.paste(Image.new("RGB", drawn.size, (245, 248, 255)), (0, 0), Image.fromarray(ink.astype(np.uint8)))
    return paper.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
