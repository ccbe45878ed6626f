"""Forget and retain rates of erasers made in float32 on copies of `emoji-flow` in other number formats.

    python benchmarks/flow_copies.py            four objects and a style; int8 needs `pip install torchao`
    python benchmarks/flow_copies.py --quick    one object; writes no result

The erasers are made once, on the model in float32, and attached to copies in bfloat16, in 8-bit floats (fp8) and in
8-bit integers (int8), as `efface evaluate --dtype bf16` and `--quantize` open them. The `err` protocol evaluates every
copy on the same prompts and seeds. Writes results/flow_copies.md and .json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import efface
from efface.judges import open_judge
from efface.models.runtime import Runtime
from efface.request.record import Kind
from pages import Page, machine, table, write
from quality import Rows, Setting, evaluated, interval, mean, of_setting, request_of

COPIES = {
    "float32": Runtime(),
    "bf16": Runtime(dtype="bf16"),
    "fp8": Runtime(quantize="fp8"),
    "int8": Runtime(quantize="int8"),
}
CONCEPTS: dict[str, Kind] = {"cat": "object", "car": "object", "apple": "object", "guitar": "object", "3d": "style"}
METHOD, IMAGES = "uce", 12


def measure(concepts: dict[str, Kind], images: int, work: Path) -> Rows:
    """The rows of each concept, by copy."""
    judge, rows = open_judge("emoji"), Rows()
    model = efface.open_model("emoji-flow")
    for concept, kind in concepts.items():
        eraser = efface.erase(model, request_of(concept, kind, Setting(METHOD, guided=False)))
        for copy, runtime in COPIES.items():
            opened = efface.open_model("emoji-flow", runtime)
            row = evaluated(opened, {METHOD: eraser}, judge, images, work / f"{concept}-{copy}")[METHOD]
            rows.setdefault(concept, {})[copy] = row
            print(concept, copy, row["metrics"]["forget"]["value"], row["metrics"]["retain"]["value"], flush=True)
    return rows


def page(rows: Rows) -> Page:
    """The result page of the numbers in flow_copies.json."""
    columns = (("metrics", "forget"), ("base", "forget"), ("metrics", "retain"), ("base", "retain"))
    heads = ["copy", "forget", "forget, unedited", "retain", "retain, unedited"]
    lines = [[copy, *(interval(of_setting(rows, copy), *column) for column in columns)] for copy in COPIES]

    def points(copy: str, metric: str) -> float:
        return 100 * (
            mean(of_setting(rows, copy), "metrics", metric) - mean(of_setting(rows, "float32"), "metrics", metric)
        )

    others = [copy for copy in COPIES if copy != "float32"]
    findings = [f"{copy} {points(copy, 'forget'):+.1f} and {points(copy, 'retain'):+.1f}" for copy in others]
    return Page(
        "Erasers on copies of emoji-flow in other number formats",
        f"Erasers by `{METHOD}` of {len(rows)} concepts, made in float32: on copies, forget and retain rates differ by "
        f"these points: {'; '.join(findings)}.",
        f"\nMeans over concepts, with 95% intervals from a bootstrap over concepts.\n\n{table(heads, lines)}\n",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one object; writes no result")
    parser.add_argument("--work", type=Path, help="the folder of the images; without it, a temporary one")
    arguments = parser.parse_args()
    concepts: dict[str, Kind] = {"cat": "object"} if arguments.quick else CONCEPTS
    rows = measure(concepts, 4 if arguments.quick else IMAGES, arguments.work or Path(tempfile.mkdtemp()))
    result = page(rows)
    print(f"\n{result.finding}\n{result.body}")
    if not arguments.quick:
        write("flow_copies", rows, result, machine(), "judge emoji")


if __name__ == "__main__":
    main()
