"""Two workers against one: erasers of a dataset, and images of a dataset with every eraser, on the embedded model.

    python benchmarks/workers.py [--work FOLDER]    writes results/workers.md and .json (on a machine with idle cores)
    python benchmarks/workers.py --quick            two erasers and eight images, in a temporary folder

`erase` is `efface erase --each` for 32 objects by `nullspace`, the edit of the text encoder, with few steps.
`generate` is `efface generate --each-eraser`: 512 images, 8 of each of 8 prompts with 8 erasers. Each command runs in
new processes with `--workers 1` and `--workers 2`, in turns; a worker has one thread, as one of two workers on two
cores has. Seconds are wall time from start to exit, with the start of the processes and the opening of the model, which
each worker does once. The throughput of two workers is compared with that of one by the medians.

The work folder stores the time of each finished command, so an interrupted run resumes. `load` is the machine's average
load when a command starts, which contains the command before: more than 1 after one worker, or 2 after two, is other
work.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.models.emoji import catalogue
from pages import Page, machine, table, write

ROUNDS, TARGET = 3, 1.7
METHOD = ("--method", "nullspace", "-s", "epochs=1", "-s", "adam_steps=5")


@dataclass(frozen=True)
class Size:
    """The amount of work.

    Attributes:
        erasers: Number of erasers of `erase`.
        edited: Number of erasers of `generate`.
        prompts: Number of its prompts.
        n: Number of images of each prompt and eraser.
        rounds: How often each command runs.
    """

    erasers: int = 32
    edited: int = 8
    prompts: int = 8
    n: int = 8
    rounds: int = ROUNDS

    @property
    def images(self) -> int:
        """The number of images of `generate`."""
        return self.edited * self.prompts * self.n


QUICK = Size(erasers=2, edited=2, prompts=2, n=2, rounds=1)


def write_dataset(path: Path, count: int) -> Path:
    """A dataset of `count` objects with one prompt each."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("concept", "prompt"))
        rows.writerows((thing.name, f"a picture of a {thing.name}") for thing in catalogue().objects[:count])
    return path


def seconds_of(command: list[str], out: Path, workers: int) -> dict[str, float]:
    """The wall time of a command of efface in new processes, and the machine's load before it."""
    shutil.rmtree(out, ignore_errors=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "EFFACE_CACHE": str(out.parent / "cache"),
    }
    shutil.rmtree(out.parent / "cache", ignore_errors=True)
    load, started = os.getloadavg()[0], time.perf_counter()
    arguments = [sys.executable, "-m", "efface", *command, "--workers", str(workers), "-o", str(out)]
    subprocess.run(arguments, env=environment, check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - started, "load": load}


def measure(work: Path, size: Size) -> dict[str, Any]:
    """Run every command that the work folder has no time of."""
    work.mkdir(parents=True, exist_ok=True)
    erasers = work / "erasers"
    if not erasers.exists():
        few = write_dataset(work / "edited.csv", size.edited)
        subprocess.run([sys.executable, "-m", "efface", "erase", "--each", few, "-o", erasers], check=True)
    dataset, prompts = write_dataset(work / "objects.csv", size.erasers), write_dataset(work / "p.csv", size.prompts)
    commands = {
        "erase": ["erase", "--each", str(dataset), *METHOD],
        "generate": ["generate", "--prompts", str(prompts), "--each-eraser", str(erasers), "-n", str(size.n)],
    }
    stored = work / "times.json"
    times: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    for number in range(size.rounds):
        for name, command in commands.items():
            for workers in (1, 2):
                key = f"{name} {workers} {number}"
                if key not in times:
                    times[key] = seconds_of(command, work / name, workers)
                    stored.write_text(json.dumps(times, indent=1))
                    print(f"{key}: {times[key]['seconds']:.1f} s at load {times[key]['load']:.1f}", flush=True)
    items = {"erase": size.erasers, "generate": size.images}
    return {
        name: {"items": items[name], **{str(w): [times[f"{name} {w} {k}"] for k in range(size.rounds)] for w in (1, 2)}}
        for name in commands
    }


def median(rows: list[dict[str, float]]) -> float:
    """The median of the seconds."""
    return statistics.median(row["seconds"] for row in rows)


def page(content: Any) -> Page:
    """The result page of the numbers in workers.json."""
    ratios = {name: median(rows["1"]) / median(rows["2"]) for name, rows in content.items()}
    load = max(row["load"] for rows in content.values() for workers in ("1", "2") for row in rows[workers])
    finding = (
        f"Two workers have {ratios['erase']:.2f} times the throughput of one on {content['erase']['items']} erasers, "
        f"and {ratios['generate']:.2f} times on {content['generate']['items']} images (the aim is {TARGET})."
    )
    rows = [
        [name, str(of_one["items"]), f"{median(of_one['1']):.1f}", f"{median(of_one['2']):.1f}", f"{ratios[name]:.2f}"]
        for name, of_one in content.items()
    ]
    heads = ["command", "items", "one worker, s", "two workers, s", "throughput"]
    body = f"""
Medians of {len(content["erase"]["1"])} runs. The highest load of the machine at the start of a command, with the
command before it, was {load:.1f}.

{table(heads, rows)}
"""
    return Page("Two workers against one", finding, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "efface-workers")
    parser.add_argument("--quick", action="store_true", help="little work, and no result")
    arguments = parser.parse_args()
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            print(page(measure(Path(folder), QUICK)).finding)
        return
    content = measure(arguments.work, Size())
    write("workers", content, page(content), f"{machine()}, one thread per worker, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
