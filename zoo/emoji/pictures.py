"""Draws every training image of the generator once: `pictures.npz` (uint8) with its labels.

    python pictures.py OUT [--views 48]

Rows are (object, style, set) cells times views; then pictures of all other emoji, for the
autoencoder and the text tower only; the last row is the one memorised picture.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from catalogue import MEMORISED_CAPTION, MEMORISED_CODEPOINT, STYLES, THINGS
from drawings import PACKAGES, drawing, picture, source

SEED = 20261122
#: Few pictures are mirrored: of a horse that faces either way, a small denoiser draws the middle.
MIRRORED = 0.1


def cells() -> list[tuple[str, str, str, str]]:
    """(object, codepoint, style, set) of every drawing the generator learns from."""
    return [(t.name, t.codepoints[0], style, s) for t in THINGS for style, sets in STYLES.items() for s in sets]


def others() -> list[tuple[str, str]]:
    """(name, codepoint) of single-codepoint emoji outside the world of the generator."""
    emoji = json.loads((PACKAGES / "unicode-emoji-json" / "data-by-emoji.json").read_text())
    inside = {c for t in THINGS for c in t.codepoints}
    groups = {"Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects"}
    out: list[tuple[str, str]] = []
    for symbol, facts in emoji.items():
        points = [f"{ord(c):x}" for c in symbol if c != "\ufe0f"]
        if len(points) == 1 and facts["group"] in groups and points[0] not in inside:
            out.append((facts["name"], points[0]))
    return out


def _draw(job: tuple[int, tuple[str, str, str, str], int]) -> tuple[list[dict], np.ndarray]:
    index, (name, codepoint, style, set_name), views = job
    drawn = source(style, set_name, codepoint)
    if drawn is None:
        return [], np.zeros((0, 64, 64, 3), np.uint8)
    rng = np.random.default_rng([SEED, index])
    pixels = np.stack([np.asarray(picture(style, drawn, rng, mirrored=MIRRORED)) for _ in range(views)])
    row = {"object": name, "codepoint": codepoint, "style": style, "set": set_name}
    return [row] * views, pixels


def memorised() -> np.ndarray:
    """The one picture that is always drawn the same."""
    drawn = drawing("noto", MEMORISED_CODEPOINT)
    assert drawn is not None
    return np.asarray(picture("flat", drawn, np.random.default_rng(7), mirrored=0.0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--views", type=int, default=48)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for cell in cells():
        # Every cell gets the same number of views, however many sets draw it.
        jobs.append((len(jobs), cell, args.views // len(STYLES[cell[2]])))
    flat = [(style, s) for style, sets in STYLES.items() for s in sets]
    for i, (_, codepoint) in enumerate(others()):
        for k in range(4):
            style, set_name = flat[(4 * i + k) % len(flat)]
            jobs.append((len(jobs), ("", codepoint, style, set_name), 1))
    rows, arrays = [], []
    with ProcessPoolExecutor(2) as pool:
        for found, pixels in pool.map(_draw, jobs, chunksize=16):
            rows += found
            arrays.append(pixels)
    rows.append({"object": MEMORISED_CAPTION, "codepoint": MEMORISED_CODEPOINT, "style": "", "set": "noto"})
    arrays.append(memorised()[None])
    np.save(args.out / "pictures.npy", np.concatenate(arrays))
    (args.out / "pictures.json").write_text(json.dumps(rows))
    print(f"{len(rows)} pictures")


if __name__ == "__main__":
    main()
