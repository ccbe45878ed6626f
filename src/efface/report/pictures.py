"""Pictures for a report: pairs of before and after, embedded in the page or laid out as one PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image, ImageDraw, ImageFont, ImageOps

from efface.generation import Job
from efface.image_files import read_picture
from efface.protocols import JudgedImage, Result

CELL, GAP, LABEL = 96, 4, 22
LARGEST_EXACT, LARGEST_SIDE = 128, 512


class HasPrompt(Protocol):
    """Anything that has one prompt."""

    @property
    def prompt(self) -> str:
        """The prompt."""
        ...


T = TypeVar("T", bound=HasPrompt)


@dataclass(frozen=True)
class Pair:
    """The same prompt and seed without and with an eraser."""

    before: JudgedImage
    after: JudgedImage

    @property
    def prompt(self) -> str:
        """The prompt of both."""
        return self.after.probe.job.prompt

    @property
    def failed(self) -> bool:
        """Whether the eraser failed: an erased concept is shown, or a concept that the unedited model shows is lost."""
        if self.after.shows is None or self.after.right:
            return False
        return not self.after.probe.wanted or bool(self.before.shows)


def pairs_of(base: Result, result: Result, metric: str, concept: str | None = None) -> list[Pair]:
    """Every image of a metric beside the unedited model's, in the plan's order.

    Args:
        base: The unedited model's result.
        result: An eraser's result.
        metric: The probes' metric.
        concept: Only probes that ask for this concept.
    """
    before = {_key(image): image for image in base.images}
    return [
        Pair(before[_key(image)], image)
        for image in result.images
        if image.probe.metric == metric and concept in (None, image.probe.concept) and _key(image) in before
    ]


def _key(image: JudgedImage) -> tuple[str, str, Job]:
    return image.probe.metric, image.probe.concept, image.probe.job


def spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` items, spread over the prompts: one of each prompt first, then a second, and so on.

    Args:
        items: Pairs, or rows of several.
        limit: Their number.
    """
    turns: dict[str, int] = {}
    ranked: list[tuple[int, int, T]] = []
    for position, item in enumerate(items):
        prompt = item.prompt
        ranked.append((turns.get(prompt, 0), position, item))
        turns[prompt] = turns.get(prompt, 0) + 1
    ranked.sort(key=lambda entry: entry[:2])
    chosen = ranked[:limit]
    # With more prompts than places, prompts from all of the list rather than from its beginning.
    first = [entry for entry in ranked if entry[0] == 0]
    if len(first) > limit:
        chosen = [first[index * len(first) // limit] for index in range(limit)]
    return [item for _, _, item in chosen]


def data_url(path: Path | None) -> str | None:
    """A picture as a data URL: small ones as they are, large ones as a smaller JPEG; None if there is none."""
    picture = open_picture(path)
    if picture is None:
        return None
    buffer = io.BytesIO()
    if max(picture.size) <= LARGEST_EXACT:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        picture.save(buffer, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def open_picture(path: Path | None) -> Image.Image | None:
    """A picture in RGB, or None if it is missing or damaged: the report then says so."""
    if path is None:
        return None
    try:
        return Image.fromarray(read_picture(path))
    except OSError:
        return None


@dataclass(frozen=True)
class GridBlock:
    """Pictures under a title, in labelled rows.

    Attributes:
        title: The title.
        rows: The label of each row, and its pictures; None leaves a place empty.
    """

    title: str
    rows: Sequence[tuple[str, Sequence[Image.Image | None]]]


def before_and_after(title: str, pairs: Sequence[Pair]) -> GridBlock:
    """A block with the pictures before and, below them, after."""
    before = [open_picture(pair.before.path) for pair in pairs]
    after = [open_picture(pair.after.path) for pair in pairs]
    return GridBlock(title, [("before", before), ("after", after)])


def write_grid(blocks: Sequence[GridBlock], path: Path, cell: int = CELL) -> None:
    """Write one PNG with all blocks, one below the other.

    Args:
        blocks: The blocks.
        path: The file.
        cell: The width and height of a picture's place; pictures are scaled to fit.
    """
    font = ImageFont.load_default(13)
    columns = max((len(pictures) for block in blocks for _, pictures in block.rows), default=1)
    margin = max([64, *(2 * GAP + round(font.getlength(label)) for block in blocks for label, _ in block.rows)])
    title = max((round(font.getlength(block.title)) for block in blocks), default=0)
    width = max(margin + columns * (cell + GAP), title + GAP) + GAP
    height = sum(LABEL + len(block.rows) * (cell + GAP) + GAP for block in blocks) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = GAP
    for block in blocks:
        draw.text((GAP, y + 2), block.title, fill="black", font=font)
        y += LABEL
        for label, pictures in block.rows:
            draw.text((GAP, y + cell // 2 - 8), label, fill="#555555", font=font)
            for column, picture in enumerate(pictures):
                if picture is not None:
                    scaled = ImageOps.contain(picture, (cell, cell), Image.Resampling.LANCZOS)
                    sheet.paste(scaled, (margin + column * (cell + GAP), y))
            y += cell + GAP
        y += GAP
    sheet.save(path, "PNG", optimize=True)
