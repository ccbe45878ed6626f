"""The figure of docs/carry-over.md: the same prompts and seeds on both embedded models, before and after erasing a cat.

python benchmarks/carry_over_figure.py        writes docs/images/carry-over.png
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import efface
from carry_over import MODELS
from efface.generation import Job, sample
from efface.generation.folder import Pixels
from efface.models import Model

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "carry-over.png"
PROMPTS = ("a cat", "a cat in outlined style", "a cat in pixel art style", "a tiger in 3d style")
METHODS = ("uce", "sepce")
SEED, SIDE, GAP, LABEL, TOP = 40, 192, 4, 90, 40  # pixels, except the first


def images(model: Model, eraser: efface.Eraser | None) -> list[Pixels]:
    """One image of each prompt, (64, 64, 3)."""
    jobs = [Job(prompt, SEED + number) for number, prompt in enumerate(PROMPTS)]
    made = dict(sample(model, jobs, eraser=eraser))
    return [image if image is not None else np.zeros((64, 64, 3), np.uint8) for _, image in sorted(made.items())]


def block(name: str) -> Image.Image:
    """The images of one model: a row without an eraser, and one of each method."""
    model = efface.open_model(name)
    rows = {"unedited": images(model, None)}
    rows |= {method: images(model, efface.erase(model, "cat", method=method)) for method in METHODS}
    canvas = Image.new("RGB", (LABEL + len(PROMPTS) * SIDE, TOP + len(rows) * SIDE), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    draw.text((LABEL, 2), name, fill="black", font=font)
    for column, prompt in enumerate(PROMPTS):
        draw.text((LABEL + column * SIDE, 20), prompt, fill="black", font=font)
    for row, (label, made) in enumerate(rows.items()):
        draw.text((4, TOP + row * SIDE + SIDE // 2), label, fill="black", font=font)
        for column, pixels in enumerate(made):
            image = Image.fromarray(pixels).resize((SIDE - GAP, SIDE - GAP), Image.Resampling.NEAREST)
            canvas.paste(image, (LABEL + column * SIDE, TOP + row * SIDE))
    return canvas


def main() -> None:
    blocks = [block(name) for name in MODELS]
    figure = Image.new("RGB", (sum(one.width for one in blocks), blocks[0].height), "white")
    for number, one in enumerate(blocks):
        figure.paste(one, (number * one.width, 0))
    figure.save(FIGURE)


if __name__ == "__main__":
    main()
