"""Measures the judge on drawings it was not trained on, and prints and stores the figures.

    python check_judge.py RUN

Recall: the share of images of an object in which it is found. False positives: the share of (image, object) questions
answered yes, over images of other things. `unseen` is the set that neither the generator nor the judge was trained on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from catalogue import STYLES, THINGS, UNSEEN_SET
from drawings import picture, source
from efface.judges.emoji import EmojiJudge, Head
from train_judge import blends, nonsense, other_cells, render, to_tensor

RESULTS = Path(__file__).parent / "results"


def unseen(views: int = 10) -> tuple[np.ndarray, list[str], list[str]]:
    """The unseen set in the styles it can be drawn in: pictures, objects, styles."""
    rng, pixels, names, kinds = np.random.default_rng(9), [], [], []
    for thing in THINGS:
        for style in ("flat", "outlined", "pixel art", "line art", "blueprint"):
            drawn = source(style, UNSEEN_SET, thing.codepoints[0])
            if drawn is None:
                continue
            for _ in range(views):
                pixels.append(np.asarray(picture(style, drawn, rng)))
                names.append(thing.name)
                kinds.append(style)
    return np.stack(pixels), names, kinds


def recall_and_false_positives(
    judge: EmojiJudge, pixels: np.ndarray, names: list[str], head: Head
) -> dict[str, float | None]:
    classes = [t.name for t in THINGS] if head == "object" else list(STYLES)
    p = judge.probabilities(pixels)[head][:, :-1]
    yes = p >= judge.threshold(classes[0])
    truth = np.array([[name == c for c in classes] for name in names])
    return {
        "recall": float(yes[truth].mean()) if truth.any() else None,
        "false_positive_rate": float(yes[~truth].mean()),
        "n": len(pixels),
    }


def to_pixels(x: torch.Tensor) -> np.ndarray:
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--judge", type=Path, default=Path("src/efface/models/emoji/judge"))
    args = parser.parse_args()
    judge = EmojiJudge.load(args.judge)
    rows = json.loads((args.run / "pictures.json").read_text())
    pixels = np.load(args.run / "pictures.npy", mmap_mode="r")
    inside = [i for i, r in enumerate(rows) if r["style"] and r["object"]]
    some = np.random.default_rng(8).choice(inside, 4000, replace=False)
    held, held_rows = pixels[some], [rows[i] for i in some]
    out: dict = {"held-out renderings": {}}
    out["held-out renderings"]["object"] = recall_and_false_positives(
        judge, held, [r["object"] for r in held_rows], "object"
    )
    out["held-out renderings"]["style"] = recall_and_false_positives(
        judge, held, [r["style"] for r in held_rows], "style"
    )
    strange, names, kinds = unseen()
    for kind in dict.fromkeys(kinds):
        at = [i for i, k in enumerate(kinds) if k == kind]
        out[f"unseen set, {kind}"] = recall_and_false_positives(judge, strange[at], [names[i] for i in at], "object")
    out["unseen set"] = recall_and_false_positives(judge, strange, names, "object")
    answers = judge.classify(strange)
    out["unseen set, by object"] = {
        n: round(float(np.mean([s.object == n for s, m in zip(answers, names, strict=True) if m == n])), 2)
        for n in dict.fromkeys(names)
    }
    other, other_rows = render(args.run / "judge_style_check", other_cells(True), 1, 2 * 10**6)
    out["style on unseen objects"] = recall_and_false_positives(
        judge, np.asarray(other), [r[2] for r in other_rows], "style"
    )
    out["other emoji"] = recall_and_false_positives(judge, np.asarray(other), [""] * len(other), "object")
    g, real = torch.Generator().manual_seed(11), to_tensor(held[:500])
    labels = torch.tensor([[t.name for t in THINGS].index(r["object"]) for r in held_rows[:500]])
    mixed, two = blends(real, labels, g)
    for name, x in (("noise, blank and broken", nonsense(500, real, g)), ("blends of two objects", mixed[two])):
        found = judge.classify(to_pixels(x))
        out[name] = {"none of these": float(np.mean([s.object is None for s in found])), "n": len(found)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "judge.json").write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
