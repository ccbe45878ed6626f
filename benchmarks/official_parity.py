"""efface beside the official scripts of ESD and UCE, on tiny random models: one training step, one closed-form edit.

    python benchmarks/official_parity.py --erasing CHECKOUT --fork CHECKOUT --uce CHECKOUT

The checkouts are not fetched: github.com/rohitgandikota/erasing (25613d2, July 2025); github.com/stanulet27/erasing at
2ff19a1 (March 2026), the last commit of ESD's authors in that fork, with the scripts for FLUX; and
github.com/rohitgandikota/unified-concept-editing (28c81ed). Each script runs unchanged, in a separate process on the
CPU, on a tiny random model (`official/folders.py`) in float32 (`official/record.py`). results/official_parity.txt has
the commands, the output of the scripts, and the rows. The numbers of ESD are norms of differences, relative to the
norm of the script's tensor:

timestep, x         of the trajectory with the script's random numbers (`official/esd.py`); x: the noisy latents
target, loss        at the script's x
gradient, weights   of all trained parameters there; the weights after Adam's step
turned              the share of weights whose step differs by more than a tenth of the learning rate

Those of UCE are relative to the largest change of a weight (`official/uce.py`):

efface              efface's baked weights against the solution in float64, with the bias once
script              the script's weights against its own solution in float64, with the bias twice
bias                the solution with the bias twice against that with the bias once
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import pages  # noqa: E402

WORK = Path("/tmp/efface-official-parity")
LOG = HERE / "results" / "official_parity.txt"
STEP, UCE = 1e-5, 1e-6  # the largest differences that are parity
_COLUMNS = ("timestep", "x", "target", "loss", "gradient", "weights")
_SEEDS = 4  # the first seed of Python's random, from which the scripts draw
_SHOWN = 4  # lines of a script's output in the log


_NOTES = f"""The limit is {STEP:.0e} for all numbers of a step, with the same trained parameters in both, and
{UCE:.0e} for `efface` in an edit. Each tiny model has random weights, and each script takes one step or makes one edit.

{{esd}}

The differences of efface from the scripts of ESD, and what the rows do about them:

- The scripts train in bfloat16, in which most of Adam's steps are too small to change a weight. efface trains in
  float32. So do the scripts here: the constant `torch.bfloat16` is replaced.
- The scripts do not seed their random numbers; efface has `-s seed`. The rows use the script's noise and point.
- efface uses 25 points of each trajectory. The rows have `-s reuse=1`, the script's procedure.
- For Stable Diffusion 1, efface samples by DDIM at the model's size. The rows have `-s sampler=own`, the scheduler of
  the scripts, and `-s image_size=1024`, the size of the script of 2025. That of 2026 has the model's size by default.
- For SDXL, the scripts pass latents to the denoiser that the scheduler has not scaled: they have too much noise for
  their timestep. efface scales them. The rows have the scripts' latents; no setting of efface makes them.
- The script for SDXL of 2025 samples with zeros in place of the empty prompt's embedding, as the pipeline does without
  a negative prompt; its target has the empty prompt. The script of 2026 and efface have the empty prompt in both. The
  row of 2025 has the zeros.
- That script contains its program twice. It trains twice from the base, and the second result replaces the first.
- Not compared: the first script for FLUX.1 (4cbdac2, August 2025), which samples with the trained model.

{{uce}}

The differences of efface from the scripts of UCE:

- The scripts solve in float32, efface in float64.
- FLUX.1's two matrices have a bias. The targets of the script are outputs with the bias, which its fit does not have,
  so that the bias counts twice; in efface it counts once. SDXL's matrices have none.
"""


def page(content: dict[str, Any]) -> pages.Page:
    esd, uce = content["esd"], content["uce"]
    right = [row for row in esd if row["same"] == row["parameters"] and max(row[name] for name in _COLUMNS) <= STEP]
    solved = [row for row in uce if row["efface"] <= UCE]
    finding = (
        f"In {len(right)} of {len(esd)} runs of the official scripts of ESD, for Stable Diffusion, SDXL, FLUX.1 and "
        f"FLUX.2 klein, one training step of efface equals the script's to {STEP:.0e} in float32 (largest difference "
        f"{max(row[name] for row in esd for name in _COLUMNS):.0e}); in {len(solved)} of {len(uce)} edits of UCE, on "
        f"SDXL and FLUX.1, efface's weights equal the solution in float64 to {UCE:.0e} (largest difference "
        f"{max(row['efface'] for row in uce):.0e}; of the scripts {max(row['script'] for row in uce):.0e})."
    )
    steps = pages.table(
        ["script", "file", "train_method", "steps before x", "parameters in both", *_COLUMNS, "turned"],
        [
            [
                row["name"], row["file"], row["train_method"], str(row["index"]),
                f"{row['same']} of {row['parameters']}", *(f"{row[name]:.1e}" for name in (*_COLUMNS, "turned")),
            ]
            for row in esd
        ],
    )  # fmt: skip
    numbers = ("efface", "script", "bias")
    edits = pages.table(
        ["weights", "file", "matrices", *numbers],
        [[row["name"], row["file"], str(row["matrices"]), *(f"{row[name]:.1e}" for name in numbers)] for row in uce],
    )
    return pages.Page("The official scripts beside efface", finding, _NOTES.format(esd=steps, uce=edits))


def run(command: list[str], where: Path) -> str:
    """Run an official script, and return its command and the end of its output for the log."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=where, env=environment, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    printed = done.stdout.replace(str(where.parent), "WORK").splitlines()
    lines = [line for line in printed if line.strip()][-_SHOWN:]
    names = [str(Path(text).name if "/" in text and Path(text).is_absolute() else text) for text in command[1:]]
    return "\n".join([f"$ python {' '.join(names)}", *lines]) + "\n"


def shown(row: dict[str, Any]) -> str:
    """A row as a line of the log, printed as well."""
    texts = [f"{name}={value:.2g}" if isinstance(value, float) else f"{name}={value}" for name, value in row.items()]
    line = "; ".join(texts)
    print(line, flush=True)
    return line + "\n"


def of_esd(checkouts: dict[str, Path], models: Path, work: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of ESD, and the log."""
    from safetensors.torch import load_file

    from efface import open_model
    from official import esd

    rows: list[dict[str, Any]] = []
    log: list[str] = []
    for number, script in enumerate(esd.SCRIPTS):
        out = work / "esd" / str(number)
        out.mkdir(parents=True, exist_ok=True)
        record = out / "record.safetensors"
        if not record.is_file():
            runner = [sys.executable, "-m", "official.record", str(record), str(_SEEDS + number)]
            file = checkouts[script.checkout].absolute() / script.file
            (out / "log.txt").write_text(run([*runner, str(file), *script.command(out / "saved")], models))
        (weights,) = (out / "saved").rglob("*.safetensors")
        model, recorded = open_model(models / script.model), load_file(record)
        ours = esd.efface_step(script, model, recorded)
        rows.append(asdict(esd.compare(script, model, ours, recorded, load_file(weights))))
        log.append((out / "log.txt").read_text() + shown(rows[-1]))
    return rows, log


def of_uce(checkout: Path, models: Path, work: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of UCE, and the log."""
    from safetensors.torch import load_file

    from official import uce

    rows: list[dict[str, Any]] = []
    log: list[str] = []
    for number, (model, file) in enumerate(uce.SCRIPTS.items()):
        out = work / "uce" / str(number)
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "uce.safetensors").is_file():
            command = [sys.executable, str(checkout.absolute() / file), *uce.command(model, out)]
            (out / "log.txt").write_text(run(command, models))
        found = [asdict(row) for row in uce.compare(model, models, load_file(out / "uce.safetensors"))]
        rows += found
        log.append((out / "log.txt").read_text() + "".join(map(shown, found)))
    return rows, log


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare efface with the official scripts of ESD and UCE.")
    parser.add_argument("--erasing", type=Path, required=True, help="a checkout of rohitgandikota/erasing")
    parser.add_argument("--fork", type=Path, required=True, help="a checkout of stanulet27/erasing at 2ff19a1")
    parser.add_argument("--uce", type=Path, required=True, help="a checkout of rohitgandikota/unified-concept-editing")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder of the models and runs; finished runs stay")
    arguments = parser.parse_args()
    from official.folders import write_folders

    models = arguments.work.absolute() / "models"
    write_folders(models)
    esd, log = of_esd({"erasing": arguments.erasing, "fork": arguments.fork}, models, arguments.work.absolute())
    uce, more = of_uce(arguments.uce, models, arguments.work.absolute())
    content = {"esd": esd, "uce": uce}
    pages.write("official_parity", content, page(content), pages.machine(), "on a CPU, float32")
    LOG.write_text("\n".join([*log, *more]), encoding="utf-8")


if __name__ == "__main__":
    main()
