"""Measures the generator at its default settings, and prints and stores the figures.

    python check_model.py RUN [-n 4]
    python check_model.py RUN -n 2 --model emoji-flow --results ../emoji_flow/results

Agreement: the share of images in which the judge finds the object (the style) of the prompt. Generalisation:
the same for words and object-style pairs that are held out from the denoiser's captions. Copies: the share of images
nearer to a training picture than COPY (root mean square of pixels in [-1, 1]); of the memorised caption also at LOW
guidance, as strong guidance drives even a memorised picture into other colours. A second opinion on objects stands
beside the judge's (`second_opinion.py`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from captions import OBJECT_TEMPLATES, STYLED_TEMPLATES
from catalogue import HELD_OUT_CELLS, MEMORISED_CAPTION, STYLES, THINGS
from efface.generation.jobs import Job, Sampling
from efface.generation.sampling import sample
from efface.judges.emoji import EmojiJudge
from efface.models import open_model
from efface.models.clip import open_clip
from efface.models.emoji import HERE
from second_opinion import SecondOpinion

COPY, LOW = 0.10, 2.0


def ask(
    model, judge: EmojiJudge, rows: list[tuple[str, str, str]], seed: int, guidance: float | None = None
) -> tuple[np.ndarray, list]:
    """Images of (prompt, object, style) rows, and what the judge sees on them."""
    images = np.zeros((len(rows), 64, 64, 3), np.uint8)
    jobs = [Job(prompt, seed + i, guidance) for i, (prompt, _, _) in enumerate(rows)]
    for i, image in sample(model, jobs, Sampling.default(model)):
        images[i] = 0 if image is None else image
    return images, judge.classify(images)


def agreement(rows: list[tuple[str, str, str]], answers: list, others: list[str]) -> dict[str, float]:
    """Shares of images in which the judge, and the second opinion, find what the rows name."""
    objects = [s.object == o for (_, o, _), s in zip(rows, answers, strict=True) if o]
    styles = [s.style == t for (_, _, t), s in zip(rows, answers, strict=True) if t]
    out: dict[str, float] = {"n": len(rows)}
    if objects:
        out["object"] = round(float(np.mean(objects)), 4)
        out["object, second opinion"] = round(
            float(np.mean([s == o for (_, o, _), s in zip(rows, others, strict=True)])), 4
        )
    if styles:
        out["style"] = round(float(np.mean(styles)), 4)
    return out


def by(key: int, rows: list[tuple[str, str, str]], answers: list) -> dict[str, float]:
    names = dict.fromkeys(r[key] for r in rows)
    right = [(r[key], (s.object if key == 1 else s.style) == r[key]) for r, s in zip(rows, answers, strict=True)]
    return {n: round(float(np.mean([ok for m, ok in right if m == n])), 3) for n in names}


def copies(images: np.ndarray, pictures: np.ndarray) -> float:
    """The share of images whose nearest picture, mirrored or not, is nearer than COPY."""
    x = torch.from_numpy(images).float().div(127.5).sub(1)
    nearest = torch.full((len(x),), float("inf"))
    for i in range(0, len(pictures), 2000):
        y = torch.from_numpy(np.ascontiguousarray(pictures[i : i + 2000])).float().div(127.5).sub(1)
        nearest = torch.minimum(nearest, torch.cdist(x.flatten(1), y.flatten(1)).min(1).values)
    return float((nearest / x[0].numel() ** 0.5 < COPY).float().mean())


def zero_shot(run: Path, pictures: np.ndarray, n: int = 500) -> dict[str, float]:
    """How often the image tower finds the right one of the objects' names on a drawing."""
    rows = json.loads((run / "pictures.json").read_text())
    inside = [i for i, r in enumerate(rows) if r["style"] and r["object"]]
    some = np.sort(np.random.default_rng(13).choice(inside, n, replace=False))
    names = [t.name for t in THINGS]
    best = open_clip().cosines(pictures[some], [f"a {name}" for name in names]).argmax(1).tolist()
    return {"n": n, "right": float(np.mean([names[b] == rows[i]["object"] for b, i in zip(best, some, strict=True)]))}


def grid(images: np.ndarray, columns: int, path: Path) -> None:
    rows = [np.concatenate(list(images[i : i + columns]), 1) for i in range(0, len(images) - columns + 1, columns)]
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=4, help="images of each object-style cell")
    parser.add_argument("--judge", type=Path, default=HERE / "judge")
    parser.add_argument("--model", default="emoji", help="an embedded model")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    model, judge, out = open_model(args.model), EmojiJudge.load(args.judge), {}
    pictures, opinion = np.load(args.run / "pictures.npy", mmap_mode="r"), SecondOpinion(args.run)
    args.results.mkdir(exist_ok=True)
    cells = [(t.name, s) for t in THINGS for s in STYLES]
    styled = [
        (STYLED_TEMPLATES[i % len(STYLED_TEMPLATES)].format(o=o, s=s), o, s)
        for i in range(args.n)
        for o, s in cells
        if (o, s) not in HELD_OUT_CELLS
    ]
    images, answers = ask(model, judge, styled, 1000)
    out["object and style named"] = agreement(styled, answers, opinion.objects(images))
    out["by object"], out["by style"] = by(1, styled, answers), by(2, styled, answers)
    out["copies, ordinary captions"] = copies(images, pictures)
    first = [i for i, (o, s) in enumerate(cells) if (o, s) not in HELD_OUT_CELLS]
    sheet = np.full((len(cells), 64, 64, 3), 128, np.uint8)
    sheet[first] = images[: len(first)]
    grid(sheet, len(STYLES), args.results / "model.png")
    plain = [(t.format(o=thing.name), thing.name, "") for thing in THINGS for t in OBJECT_TEMPLATES[: 2 * args.n]]
    images, answers = ask(model, judge, plain, 5000)
    out["object named"] = agreement(plain, answers, opinion.objects(images))
    known = [(f"a {w}", t.name, "") for t in THINGS for w in t.synonyms for _ in range(2 * args.n)]
    images, answers = ask(model, judge, known, 6000)
    out["synonyms of the captions"] = agreement(known, answers, opinion.objects(images))
    new = [(f"a {w}", t.name, "") for t in THINGS for w in t.held_out for _ in range(2 * args.n)]
    images, answers = ask(model, judge, new, 7000)
    out["held-out synonyms"] = agreement(new, answers, opinion.objects(images))
    out["held-out synonyms, by object"] = by(1, new, answers)
    pairs = [(f"a {o} in {s} style", o, s) for o, s in sorted(HELD_OUT_CELLS) for _ in range(2 * args.n)]
    images, answers = ask(model, judge, pairs, 8000)
    out["held-out pairs"] = agreement(pairs, answers, opinion.objects(images))
    memory = [(MEMORISED_CAPTION, "", "")] * 4 * args.n
    for label, guidance in (("", None), (f", guidance {LOW:g}", LOW)):
        images = ask(model, judge, memory, 9000, guidance)[0]
        out[f"copies, memorised caption{label}"] = copies(images, pictures[-1:])
    # The training picture first, then what the model draws.
    grid(np.concatenate([pictures[-1:], images[:4]]), 5, args.results / "memorised.png")
    if args.model == "emoji":
        out["image tower, drawings"] = zero_shot(args.run, pictures)
    (args.results / "model.json").write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
