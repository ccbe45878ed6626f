"""Pictures for a report: pairs of before and after, inlined into the page and laid out as one PNG."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from efface.generation import Job
from efface.protocols import Result, Shot

CELL, GAP, LABEL = 96, 4, 22
LARGEST_EXACT, LARGEST_SIDE = 128, 512


class Prompted(Protocol):
    """Anything that shows one prompt."""

    @property
    def prompt(self) -> str: ...


T = TypeVar("T", bound=Prompted)


@dataclass(frozen=True)
class Pair:
    """The same prompt and seed without and with an eraser."""

    before: Shot
    after: Shot

    @property
    def prompt(self) -> str:
        """What was drawn."""
        return self.after.probe.job.prompt

    @property
    def failed(self) -> bool:
        """The eraser failed here: what it erased came through, or what the unedited model drew is lost."""
        if self.after.found is None or self.after.good:
            return False
        return not self.after.probe.wanted or bool(self.before.found)


def pairs(base: Result, result: Result, metric: str, concept: str | None = None) -> list[Pair]:
    """Every image of a metric beside the unedited model's, in the plan's order.

    Args:
        base: the unedited model's result.
        result: an eraser's.
        metric: which probes.
        concept: only those that ask for this concept.
    """
    known = {_asked(shot): shot for shot in base.shots}
    return [
        Pair(known[_asked(shot)], shot)
        for shot in result.shots
        if shot.probe.metric == metric and concept in (None, shot.probe.concept) and _asked(shot) in known
    ]


def _asked(shot: Shot) -> tuple[str, str, Job]:
    return shot.probe.metric, shot.probe.concept, shot.probe.job


def spread(found: Sequence[T], limit: int) -> list[T]:
    """At most `limit` pairs, or rows of several: one of each prompt first, then a second, so that none has too many."""
    turns: dict[str, int] = {}
    ranked: list[tuple[int, int, T]] = []
    for position, pair in enumerate(found):
        prompt = pair.prompt
        ranked.append((turns.get(prompt, 0), position, pair))
        turns[prompt] = turns.get(prompt, 0) + 1
    ranked.sort(key=lambda entry: entry[:2])
    chosen = ranked[:limit]
    # With more prompts than places, prompts from the whole list rather than its beginning.
    first = [entry for entry in ranked if entry[0] == 0]
    if len(first) > limit:
        chosen = [first[index * len(first) // limit] for index in range(limit)]
    return [pair for _, _, pair in chosen]


def inlined(path: Path | None) -> str | None:
    """A picture as a data address: small ones as they are, large ones as a smaller JPEG; None if there is none."""
    picture = opened(path)
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


def opened(path: Path | None) -> Image.Image | None:
    """A picture in RGB, or None where it is missing or broken: the report then says so."""
    if path is None:
        return None
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None


def grid(rows: Iterable[tuple[str, Sequence[Pair]]], path: Path) -> None:
    """Write one PNG: for each labelled row, the pictures before and, beneath them, after."""
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
        for word, shots in (("before", [p.before for p in row]), ("after", [p.after for p in row])):
            draw.text((GAP, y + CELL // 2 - 8), word, fill="#555555", font=font)
            for column, shot in enumerate(shots):
                picture = opened(shot.path)
                if picture is not None:
                    side = picture.resize((CELL, CELL), Image.Resampling.LANCZOS)
                    sheet.paste(side, (margin + column * (CELL + GAP), y))
            y += CELL + GAP
        y += GAP
    sheet.save(path, "PNG", optimize=True)
