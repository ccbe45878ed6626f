"""Trains the judge of the embedded model, apart from the generator and on drawings only.

    python train_judge.py RUN --steps 1000 [--start FOLDER]

Its object head learns from every set but one (more than the generator saw) under strong augmentation.
"None of these" is taught with other emoji, noise, blank and broken pictures and blends of two objects.
Its object and its style network learn one after the other. Resumes from RUN/judge_*.pt; `--start` takes the
first weights from a shipped judge; `check_judge.py` measures it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from catalogue import STYLES, THINGS
from common import Average, Checkpoint, Log, learning_rate, save_checkpoint
from drawings import picture, source
from efface.judges.emoji import JudgeNet
from muon import Muon
from pictures import others

MUON_LR, ADAM_LR, IGNORE = 0.01, 2e-3, -100
THINGS_N, OTHERS_N, NONSENSE_N, BLENDS_N = 56, 10, 7, 7
COLOUR_SETS = ("twemoji", "noto", "fluent-emoji-flat", "emojione", "emojione-v1")
#: OpenMoji's own styles: coloured drawings have black outlines, and there is a set of lines.
OPENMOJI = {
    "outlined": "openmoji",
    "pixel art": "openmoji",
    "line art": "openmoji-black",
    "blueprint": "openmoji-black",
}
#: Other emoji that a person would also call by the name of one of the objects, or nearly so.
TOO_NEAR = frozenset(
    ["wolf", "fox", "bear", "koala", "hamster", "cow", "pig", "ox", "chick", "eagle", "duck", "dove", "owl"]
) | frozenset(["truck", "taxi", "trolleybus", "minibus", "ambulance", "water-buffalo"])


def judge_cells() -> list[tuple[str, str, str, str]]:
    """(object, codepoint, style, set): every codepoint of an object, in every set that may draw the style."""
    out = []
    for thing in THINGS:
        for point in thing.codepoints:
            for style, sets in STYLES.items():
                drawn_by = COLOUR_SETS if len(sets) == 2 and style != "stencil" else sets
                more = (OPENMOJI[style],) if style in OPENMOJI else ()
                out += [(thing.name, point, style, s) for s in (*drawn_by, *more)]
    return out


def other_cells(held_out: bool) -> list[tuple[str, str, str, str]]:
    """The same for other emoji; every fifth is held out to check the style head on unseen objects."""
    out = []
    for i, (name, point) in enumerate(others()):
        if (i % 5 == 0) == held_out and not TOO_NEAR & set(name.lower().split()):
            out += [("", point, style, s) for style, sets in STYLES.items() for s in sets[:1]]
    return out


def _draw(job: tuple[int, tuple[str, str, str, str], int]) -> np.ndarray:
    index, (_, point, style, set_name), views = job
    drawn = source(style, set_name, point)
    if drawn is None:
        return np.zeros((0, 64, 64, 3), np.uint8)
    rng = np.random.default_rng([77, index])
    return np.stack([np.asarray(picture(style, drawn, rng, strength=1.5)) for _ in range(views)])


def render(path: Path, cells: list[tuple[str, str, str, str]], views: int, seed: int) -> tuple[np.ndarray, list]:
    """Images of the cells and a row for each; rendered once and stored."""
    if not path.with_suffix(".npy").exists():
        jobs = [(seed + i, cell, views) for i, cell in enumerate(cells)]
        with ProcessPoolExecutor(2) as pool:
            arrays = list(pool.map(_draw, jobs, chunksize=32))
        rows = [cell for cell, a in zip(cells, arrays, strict=True) for _ in range(len(a))]
        path.with_suffix(".json").write_text(json.dumps(rows))
        np.save(path.with_suffix(".npy"), np.concatenate(arrays))
    return np.load(path.with_suffix(".npy"), mmap_mode="r"), json.loads(path.with_suffix(".json").read_text())


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def shift(x: Tensor, g: torch.Generator) -> Tensor:
    """Each picture by up to five pixels, and its colours a little: it keeps its style."""
    n = len(x)
    x = F.pad(x, (5, 5, 5, 5), mode="replicate")
    at = torch.randint(0, 11, (n, 2), generator=g).tolist()
    x = torch.stack([p[:, i : i + 64, j : j + 64] for p, (i, j) in zip(x, at, strict=True)])
    gain = 1 + 0.06 * torch.randn(n, 3, 1, 1, generator=g)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, 0.25 * torch.rand(n, 1, 1, 1, generator=g))
    return ((x - 1) * gain + 1).clamp(-1, 1)


def warp(x: Tensor, g: torch.Generator) -> Tensor:
    """Each picture stretched, turned, slanted and bent, as another hand would draw the same thing."""
    n = len(x)
    angle, slant = 0.2 * torch.randn(2, n, generator=g)
    wide, high = 1 + 0.3 * (torch.rand(2, n, generator=g) - 0.35)
    c, s = angle.cos(), angle.sin()
    turned = torch.stack((c * wide, (slant - s) * high, s * wide, c * high), 1).view(n, 2, 2)
    grid = F.affine_grid(torch.cat((turned, torch.zeros(n, 2, 1)), 2), list(x.shape), align_corners=False)
    bend = F.interpolate(0.06 * torch.randn(n, 2, 5, 5, generator=g), size=64, mode="bicubic", align_corners=True)
    return F.grid_sample(x, grid + bend.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def corrupt(x: Tensor, g: torch.Generator) -> Tensor:
    """Other shapes and colours, grey, blur, coarse pixels, noise and holes: the object stays, the style may not."""
    n = len(x)
    x = warp(x, g)

    def some(p: float) -> Tensor:
        return (torch.rand(n, 1, 1, 1, generator=g) < p).float()

    swapped = x[:, torch.randperm(3, generator=g)]
    x = torch.lerp(x, swapped, some(0.4))
    gain = 1 + 0.25 * torch.randn(n, 3, 1, 1, generator=g) * some(0.5)
    x = ((x - 1) * gain + 1 + 0.1 * torch.randn(n, 3, 1, 1, generator=g) * some(0.3)).clamp(-1, 1)
    x = torch.lerp(x, x.mean(1, keepdim=True).expand_as(x), some(0.15) * torch.rand(n, 1, 1, 1, generator=g))
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, some(0.4) * torch.rand(n, 1, 1, 1, generator=g))
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = torch.lerp(x, coarse, some(0.15))
    x = x + some(0.3) * 0.15 * torch.rand(n, 1, 1, 1, generator=g) * torch.randn(x.shape, generator=g)
    for k in torch.nonzero(torch.rand(n, generator=g) < 0.25)[:, 0].tolist():
        i, j = torch.randint(0, 52, (2,), generator=g).tolist()
        x[k, :, i : i + 12, j : j + 12] = x[k, :, i : i + 1, j : j + 1]
    return x.clamp(-1, 1)


def augment(x: Tensor, g: torch.Generator) -> Tensor:
    """The strong augmentation of one batch: shift, then corrupt."""
    return corrupt(shift(x, g), g)


def nonsense(n: int, real: Tensor, g: torch.Generator) -> Tensor:
    """Noise of several grains, blank pictures, and pictures torn into shuffled tiles."""
    out = []
    for i in range(n):
        kind = int(torch.randint(0, 5, (1,), generator=g))
        if kind == 0:
            x = torch.rand(3, 64, 64, generator=g) * 2 - 1
        elif kind == 1:
            x = (torch.rand(3, 1, 1, generator=g) * 2 - 1).expand(3, 64, 64) + 0.03 * torch.randn(
                3, 64, 64, generator=g
            )
        elif kind == 2:
            grain = int(torch.tensor([2, 4, 8])[torch.randint(0, 3, (1,), generator=g)])
            x = (
                F.interpolate(torch.randn(1, 3, 64 // grain, 64 // grain, generator=g), size=64, mode="bilinear")[0]
                * 0.7
            )
        elif kind == 3:
            tiles = real[i].reshape(3, 4, 16, 4, 16).permute(1, 3, 0, 2, 4).reshape(16, 3, 16, 16)
            tiles = tiles[torch.randperm(16, generator=g)].reshape(4, 4, 3, 16, 16)
            x = tiles.permute(2, 0, 3, 1, 4).reshape(3, 64, 64)
        else:
            x = real[i] * 0.25 + torch.randn(3, 64, 64, generator=g) * 0.9
        out.append(x.clamp(-1, 1))
    return torch.stack(out)


def blends(x: Tensor, labels: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixtures and halves of two different objects, and which of them really are of two."""
    other = x.roll(1, 0)
    share = 0.38 + 0.24 * torch.rand(len(x), 1, 1, 1, generator=g)
    mixed = torch.lerp(x, other, share)
    halves = torch.cat((x[..., :32], other[..., 32:]), -1)
    pick = (torch.rand(len(x), 1, 1, 1, generator=g) < 0.5).float()
    return torch.lerp(mixed, halves, pick), labels != labels.roll(1, 0)


def by_style(rows: list) -> dict[str, np.ndarray]:
    """The rows of each style, so that styles with few sets are sampled as often as the others."""
    return {style: np.array([i for i, r in enumerate(rows) if r[2] == style]) for style in STYLES}


def batch(step: int, things: tuple, other: tuple, names: list[str], styles: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Objects, other emoji, nonsense and blends: pictures (n, 3, 64, 64), object labels, style labels."""
    rng, g = np.random.default_rng([3, step]), torch.Generator().manual_seed(step)
    (pixels, rows, groups), (other_pixels, other_rows) = things, other
    a = np.array([rng.choice(groups[styles[i % len(styles)]]) for i in range(THINGS_N)])
    b = rng.integers(0, len(other_rows), OTHERS_N)
    x = to_tensor(np.concatenate([pixels[a], other_pixels[b]]))
    drawn = [rows[i] for i in a] + [other_rows[i] for i in b]
    obj = torch.tensor([names.index(r[0]) if r[0] else len(names) for r in drawn])
    # Shaded flat drawings are neither flat nor 3d to a person: they teach objects, not those styles.
    style = torch.tensor([IGNORE if r[3] == "noto" and r[2] != "pixel art" else styles.index(r[2]) for r in drawn])
    order = torch.randperm(THINGS_N, generator=g)
    blend, real = blends(x[order[:BLENDS_N]], obj[order[:BLENDS_N]], g)
    junk = nonsense(NONSENSE_N, x[order[:NONSENSE_N]], g)
    x, hard = shift(x, g), torch.rand(len(x), generator=g) < 0.5
    x[hard], style[hard] = corrupt(x[hard], g), IGNORE
    x = torch.cat([x, junk, blend])
    none = len(names)
    obj = torch.cat([obj, torch.full((NONSENSE_N,), none), torch.where(real, none, IGNORE)])
    style = torch.cat([style, torch.full((NONSENSE_N,), len(styles)), torch.full((BLENDS_N,), IGNORE)])
    return x, obj, style


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--style-steps", type=int, default=800)
    parser.add_argument("--start", type=Path)
    args = parser.parse_args()
    names, styles = [t.name for t in THINGS], list(STYLES)
    pixels, rows = render(args.run / "judge_things", judge_cells(), 14, 0)
    things = pixels, rows, by_style(rows)
    other = render(args.run / "judge_others", other_cells(False), 1, 10**6)
    torch.manual_seed(3)
    net = JudgeNet(len(names), len(styles)).to(memory_format=torch.channels_last)
    if args.start:
        net.load_state_dict(load_file(args.start / "model.safetensors"))
    for part, steps in (("object", args.steps), ("style", args.style_steps)):
        train(part, net, steps, args.run, lambda step: batch(step, things, other, names, styles))
    save_checkpoint(args.run / "judge.pt", model=net.state_dict())


def train(
    part: str, net: JudgeNet, steps: int, run: Path, draw: Callable[[int], tuple[Tensor, Tensor, Tensor]]
) -> None:
    """One of the judge's two networks; the average of its weights is left in place."""
    module = net.style if part == "style" else nn.ModuleList([net.stem, net.blocks, net.object_head])
    optimiser = Muon(module, MUON_LR, ADAM_LR, ("head", "stem", "2", "hidden"))
    average, log = Average(module, 0.998), Log(run / f"judge_{part}.jsonl")
    for step in Checkpoint(run / f"judge_{part}.pt", module, optimiser, average).steps(steps, every=500):
        x, obj, style = draw(step)
        target = style if part == "style" else obj
        x, target = x[target >= 0], target[target >= 0]
        optimiser.schedule(learning_rate(step + 1, steps, 1.0, 100))
        with torch.autocast("cpu", torch.bfloat16, enabled=part == "object"):
            logits = (net.style if part == "style" else net.objects)(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), target, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % 100 == 0:
            right = (logits.argmax(1) == target).float().mean()
            log(step=step + 1, loss=round(loss.item(), 4), right=round(right.item(), 3))
    average.copy_to(module)


if __name__ == "__main__":
    main()
