"""Pictures for a report: pairs of before and after, embedded in the page or laid out as one PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from efface.generation import Job
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
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None


def write_grid(rows: Iterable[tuple[str, Sequence[Pair]]], path: Path) -> None:
    """Write one PNG: for each labelled row, the pictures before and, below them, after."""
    rows = [(label, list(row)) for label, row in rows if row]
    columns = max((len(row) for _, row in rows), default=1)
    margin = 64
    size = (margin + columns * (CELL + GAP) + GAP, sum(LABEL + 2 * (CELL + GAP) + GAP for _ in rows) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    y = GAP
    for label, row in rows:
        draw.text((GAP, y + 2), label, fill="black", font=font)
        y += LABEL
        for word, images in (("before", [p.before for p in row]), ("after", [p.after for p in row])):
            draw.text((GAP, y + CELL // 2 - 8), word, fill="#555555", font=font)
            for column, image in enumerate(images):
                picture = open_picture(image.path)
                if picture is not None:
                    side = picture.resize((CELL, CELL), Image.Resampling.LANCZOS)
                    sheet.paste(side, (margin + column * (CELL + GAP), y))
            y += CELL + GAP
        y += GAP
    sheet.save(path, "PNG", optimize=True)
