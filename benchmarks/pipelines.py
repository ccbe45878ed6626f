"""Erase from a tiny pipeline of every class of images that diffusers exports: how far the distance to the guide falls.

    python benchmarks/pipelines.py

It writes results/pipelines.txt: for each class the ratio of the distances before and after, or the line with which
efface rejects it, or why it is left out. It fails if a class ends in anything else.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests")]

import diffusers  # noqa: E402
import torch  # noqa: E402

from conftest import write_tiny_sd  # noqa: E402
from pipelines_of_diffusers import (  # noqa: E402
    GROUPS,
    LEFT_OUT,
    exported,
    fall_of_distance,
    rejected_by_index,
)
from tiny_transformers import pipeline_of  # noqa: E402

LEAST = 10.0


def main() -> None:
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        tiny_sd = write_tiny_sd(Path(folder) / "sd")
        for builder, (positions, names) in GROUPS.items():
            parts = builder(tiny_sd)
            for name in names:
                results[name] = fall_of_distance(pipeline_of(name, parts), positions)
                print(name, results[name], flush=True)
        left_out = {name: reason for reason, names in LEFT_OUT.items() for name in names}
        for name in sorted(set(exported()) - results.keys() - left_out.keys()):
            message = rejected_by_index(name, Path(folder))
            assert message is not None, f"{name} is neither built, nor rejected, nor left out"
            results[name] = message.replace(folder, "")
    erased = {name: ratio for name, ratio in results.items() if isinstance(ratio, float)}
    assert all(ratio >= LEAST for ratio in erased.values())
    rejected = {name: message for name, message in results.items() if name not in erased}
    lines = [
        f"diffusers {diffusers.__version__}: {len(erased)} classes are erased from, and the distance to the guide "
        f"falls by a factor of {min(erased.values()):.0f} or more; {len(rejected)} are rejected; {len(left_out)} are "
        "left out.",
        *(f"{name}: erased, factor {ratio:.1f}" for name, ratio in sorted(erased.items())),
        *(f"{name}: rejected: {message}" for name, message in sorted(rejected.items())),
        *(f"{name}: left out: {reason}" for name, reason in sorted(left_out.items())),
    ]
    (HERE / "results" / "pipelines.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
