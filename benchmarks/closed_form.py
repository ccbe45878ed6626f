"""UCE's closed form: one solve for all layers, against the published loop over layers.

    python benchmarks/closed_form.py            all cases; writes results/closed_form.md and .json (some minutes)
    python benchmarks/closed_form.py --quick    small ones, in seconds; writes nothing

- `efface` solves once in float64 and writes W (I + L R^T) into every layer.
- `loop` is a literal version of the published script: for each layer it adds one outer product per token to two float32
  matrices, and inverts.
- `stacked` is the same loop with one matrix product per layer in place of the sum over tokens. It is not published.
Weights and embeddings are random; the embeddings have the norms and the common direction of a text encoder's. Each case
runs in a separate process, so that its peak memory is measured alone. Times include writing every layer; the solve's
time is in parentheses. Memory is the peak above the weights. The error is that of the change of the weights, relative
to a float64 solve, over all layers that were run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from efface.methods.closed_form.ridge import PreservedTokens, solve_ridge
from pages import Page, machine, table, write

LAMB = 0.5

# Text width, and how many matrices (to_k and to_v) have how many rows.
SHAPES = {
    "SD 1.4": (768, {320: 10, 640: 10, 1280: 12}),
    "SDXL": (2048, {640: 20, 1280: 120}),
    "small": (64, {32: 2, 64: 2}),
}
EDITS = (1, 10, 100, 1000)
PRESERVED = (0, 1000)
# The literal loop takes half an hour on SDXL's 140 matrices: it runs on a few of them, and its time is scaled.
LOOP_LAYERS = {"SDXL": 7}


@dataclass(frozen=True)
class Case:
    shapes: str
    edits: int
    preserved: int
    way: str


@dataclass(frozen=True)
class Outcome:
    """Seconds for all layers; seconds of the solve alone; layers that were run; peak memory above the start's."""

    seconds: float
    solve: float | None
    layers: int
    megabytes: float
    error: float


def tokens(count: int, width: int, seed: int) -> Tensor:
    """Rows of norm 28 with a mutual cosine of 0.7, as CLIP's."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.nn.functional.normalize(torch.randn(1, width, generator=torch.Generator().manual_seed(0)))
    specific = torch.nn.functional.normalize(torch.randn(count, width, generator=generator))
    return 28 * torch.nn.functional.normalize(0.7**0.5 * common + 0.3**0.5 * specific)


def layers(shapes: str, limit: int | None) -> list[Tensor]:
    """Random weights; with a limit, that many, spread over the sizes."""
    width, counts = SHAPES[shapes]
    generator = torch.Generator().manual_seed(1)
    rows = [row for row, count in counts.items() for _ in range(count)]
    if limit is not None:
        rows = rows[:: len(rows) // limit][:limit]
    return [torch.randn(row, width, generator=generator) / width**0.5 for row in rows]


def efface(weights: list[Tensor], edited: Tensor, guides: Tensor, preserved: Tensor) -> float:
    started = time.perf_counter()
    stored = PreservedTokens(edited.shape[1])
    stored.add(preserved)
    edit = solve_ridge(edited.double(), guides.double(), stored, erase_scale=1.0, preserve_scale=1.0, lamb=LAMB)
    solved = time.perf_counter() - started
    for weight in weights:
        weight.copy_(edit.on(weight))
    return solved


def loop(weights: list[Tensor], edited: Tensor, guides: Tensor, preserved: Tensor) -> None:
    pairs = [*zip(edited, guides, strict=True), *zip(preserved, preserved, strict=True)]
    for weight in weights:
        left = LAMB * weight
        right = LAMB * torch.eye(weight.shape[1])
        for token, target in pairs:
            left += torch.outer(weight @ target, token)
            right += torch.outer(token, token)
        weight.copy_(left @ torch.inverse(right))


def stacked(weights: list[Tensor], edited: Tensor, guides: Tensor, preserved: Tensor) -> None:
    inputs, targets = torch.cat([edited, preserved]), torch.cat([guides, preserved])
    for weight in weights:
        left = LAMB * weight + (weight @ targets.T) @ inputs
        right = LAMB * torch.eye(weight.shape[1]) + inputs.T @ inputs
        weight.copy_(left @ torch.inverse(right))


WAYS: dict[str, Callable[[list[Tensor], Tensor, Tensor, Tensor], float | None]] = {
    "efface": efface,
    "loop": loop,
    "stacked": stacked,
}


def error(weights: list[Tensor], originals: list[Tensor], edited: Tensor, guides: Tensor, preserved: Tensor) -> float:
    """Relative Frobenius error of all changes against a float64 solve that shares no code with efface."""
    inputs, targets = torch.cat([edited, preserved]).double(), torch.cat([guides, preserved]).double()
    right = LAMB * torch.eye(inputs.shape[1], dtype=torch.float64) + inputs.T @ inputs
    change = torch.linalg.solve(right, inputs.T @ (targets - inputs)).T
    wrong = total = 0.0
    for weight, original in zip(weights, originals, strict=True):
        expected = original.double() @ change
        wrong += float((weight.double() - original.double() - expected).square().sum())
        total += float(expected.square().sum())
    return (wrong / total) ** 0.5


def run(case: Case) -> Outcome:
    """Run one case in this process."""
    width, counts = SHAPES[case.shapes]
    limit = LOOP_LAYERS.get(case.shapes) if case.way == "loop" else None
    weights = layers(case.shapes, limit)
    edited, guides, preserved = (
        tokens(count, width, seed) for seed, count in ((2, case.edits), (3, case.edits), (4, case.preserved))
    )
    torch.inverse(torch.eye(width))  # the first call loads libraries and is not timed
    torch.linalg.cholesky(torch.eye(8, dtype=torch.float64))
    before = peak_megabytes()
    started = time.perf_counter()
    solved = WAYS[case.way](weights, edited, guides, preserved)
    seconds = time.perf_counter() - started
    used = peak_megabytes() - before
    originals = layers(case.shapes, limit)
    scale = sum(row * count for row, count in counts.items()) / sum(len(weight) for weight in weights)
    return Outcome(seconds * scale, solved, len(weights), used, error(weights, originals, edited, guides, preserved))


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_in_process(case: Case) -> Outcome:
    """Run one case in a separate process."""
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Outcome(**json.loads(answer))


def page(content: Any) -> Page:
    """The result page of the numbers in closed_form.json."""
    by_instance: dict[tuple[str, int, int], dict[str, dict[str, Any]]] = {}
    for row in content["rows"]:
        by_instance.setdefault((row["shapes"], row["edits"], row["preserved"]), {})[row["way"]] = row
    rows: list[list[str]] = []
    for (shapes, edits, preserved), ways in by_instance.items():
        one, literal, products = ways["efface"], ways["loop"], ways["stacked"]
        mark = " †" if literal["layers"] < one["layers"] else ""
        cells = [shapes, str(edits), str(preserved), f"{one['seconds']:.3f} ({one['solve']:.3f})"]
        cells += [f"{literal['seconds']:.2f}{mark}", f"{faster(ways):.0f}x"]
        cells += [f"{products['seconds']:.2f}", f"{products['seconds'] / one['seconds']:.0f}x"]
        cells += [" / ".join(f"{way['megabytes']:.0f}" for way in (one, literal, products))]
        cells += [" / ".join(f"{way['error']:.1e}" for way in (one, literal, products))]
        rows.append(cells)
    heads = ["shapes", "edits", "preserved", "efface s (solve)", "loop s", "ratio", "stacked s", "ratio"]
    heads += ["memory MB efface / loop / stacked", "error efface / loop / stacked"]
    sd14, sdxl = (by_instance[shapes, 100, 1000] for shapes in ("SD 1.4", "SDXL"))
    finding = (
        f"With Stable Diffusion 1.4's shapes, 100 edits with 1,000 preserved prompts take "
        f"{sd14['efface']['seconds']:.2f} s, {faster(sd14):.0f} times as fast as the published loop over layers "
        f"({faster(sdxl):.0f} times with SDXL's shapes), with a smaller error."
    )
    body = f"""
{table(heads, rows)}

† measured on {LOOP_LAYERS["SDXL"]} of the 140 matrices, and scaled by their share of the rows.
"""
    return Page("One solve for all layers", finding, body)


def faster(ways: dict[str, dict[str, Any]]) -> float:
    """The seconds of the literal loop over those of efface."""
    return ways["loop"]["seconds"] / ways["efface"]["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description="UCE's closed form against the published loop over layers.")
    parser.add_argument("--quick", action="store_true", help="small shapes and few edits; writes nothing")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(asdict(run(Case(**arguments.case)))))
        return
    instances = [("SD 1.4", edits, preserved) for edits in EDITS for preserved in PRESERVED]
    instances += [("SDXL", edits, preserved) for edits in EDITS for preserved in PRESERVED]
    if arguments.quick:
        instances = [("small", 1, 0), ("small", 10, 100), ("SD 1.4", 1, 0)]
    rows: list[dict[str, Any]] = []
    for instance in instances:
        for way in WAYS:
            case = Case(*instance, way)
            outcome = run_in_process(case)
            rows.append(asdict(case) | asdict(outcome))
            print(f"{case.shapes}, {case.edits} edits, {case.preserved} preserved, {way}: {outcome.seconds:.3f} s")
    if not arguments.quick:
        content = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}
        result = page(content)
        print(f"\n{result.finding}\n{result.body}")
        write("closed_form", content, result, machine())


if __name__ == "__main__":
    main()
