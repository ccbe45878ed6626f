"""Malformed files for every reader: each is read as before, rejected in one line, or a defect.

    python benchmarks/fuzz.py [--inputs N] [--state FILE] [--only WORDS]     writes results/fuzz.md and .json

A defect is an exception other than efface's own errors, more than 5 seconds of processor time, more than 1 GB, or a
file with a checksum that was changed and is read as something else. An input is a function of its reader's name and its
number, so that an interrupted run continues, and one input can be read again:

    python benchmarks/fuzz.py --only pictures --input 123

The inputs are read in batches, each in a child process that has everything imported.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pages import Page, table, write

if TYPE_CHECKING:
    from fuzzing.reader import Bench

INPUTS = 100_000
_WAIT = 60.0  # seconds; a parser in C does not see the signal, and a process could wait for ever
_BATCH = 100
_SHOWN = 20  # stored examples of defects of a reader
_SPACE = 3 << 30  # bytes that a child may allocate beyond what it inherits


def opened(only: str, folder: Path) -> list[Bench]:
    """The readers whose names have these words, with their valid files in a folder."""
    import torch

    from fuzzing import efface_files, folders, other_files, texts
    from fuzzing.reader import Bench

    torch.set_num_threads(1)  # threads do not survive a fork
    logging.getLogger("efface").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    readers = [*efface_files.READERS, *folders.READERS, *other_files.READERS, *texts.READERS]
    return [Bench(reader, folder / str(i)) for i, reader in enumerate(readers) if only in reader.name]


def batch(bench: Bench, first: int, last: int) -> dict[int, str]:
    """Read inputs in a child process. An input during which the child ends is a defect, and a new child continues.

    Args:
        bench: The reader.
        first: The number of the first input.
        last: The number after the last input.

    Returns:
        The outcomes by number.
    """
    outcomes: dict[int, str] = {}
    while first < last:
        source, sink = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(source)
            _work(bench, first, last, sink)
        os.close(sink)
        lines, slow = b"", False
        while not slow:
            slow = not select.select([source], [], [], _WAIT)[0]
            piece = b"" if slow else os.read(source, 1 << 16)
            lines += piece
            if not piece:
                break
        if slow:
            os.kill(child, signal.SIGKILL)
        os.close(source)
        _, status = os.waitpid(child, 0)
        for line in lines.decode().splitlines():
            outcomes[first] = json.loads(line)
            first += 1
        if first < last:
            outcomes[first] = "more than 5 s" if slow else f"the process ended with status {status}"
            first += 1
    return outcomes


def _work(bench: Bench, first: int, last: int, sink: int) -> None:
    """The child: write the outcome of each input as one line, then end without cleaning up."""
    from fuzzing.reader import SlowError

    def slow(*_: object) -> None:
        raise SlowError

    signal.signal(signal.SIGPROF, slow)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _SPACE, size + _SPACE))
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    try:
        for index in range(first, last):
            os.write(sink, (json.dumps(bench.outcome(index)) + "\n").encode())
    finally:
        os._exit(0)


def run(benches: list[Bench], inputs: int, state: dict[str, Any]) -> Iterable[None]:
    """Read inputs until there are so many of all readers, and yield after each batch.

    Args:
        benches: The readers.
        inputs: The number of inputs of all readers.
        state: By reader: the number of inputs, the counts of outcomes, and examples of defects. It has what earlier
            runs found, and is changed.
    """
    shares = sum(bench.reader.share for bench in benches)
    for bench in benches:
        found = state.setdefault(bench.reader.name, {"inputs": 0, "read": 0, "rejected": 0, "defects": {}})
        wanted = math.ceil(inputs * bench.reader.share / shares)
        while (first := found["inputs"]) < wanted:
            outcomes = batch(bench, first, min(first + _BATCH, wanted))
            counts = Counter(outcomes.values())
            found["inputs"] += len(outcomes)
            for name in ("read", "rejected"):
                found[name] += counts.pop(name, 0)
            for index, outcome in outcomes.items():
                if outcome in counts:
                    known = outcome in found["defects"] or len(found["defects"]) < _SHOWN
                    found["defects"].setdefault(outcome if known else "others", [0, index])[0] += 1
            yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="with fewer, no page is written")
    parser.add_argument("--only", default="", help="words of a reader's name; no page is written")
    parser.add_argument("--input", type=int, help="read one input in this process, and show what it raises")
    parser.add_argument("--state", type=Path, help="the file with which an interrupted run continues")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="efface-fuzz-"))
    os.environ["EFFACE_CACHE"] = str(folder / "cache")
    try:
        if arguments.input is not None:
            os.environ["EFFACE_DEBUG"] = "1"
            for bench in opened(arguments.only, folder):
                print(bench.reader.name, bench.outcome(arguments.input))
            return
        stored = arguments.state
        state: dict[str, Any] = json.loads(stored.read_text()) if stored and stored.exists() else {}
        for _ in run(opened(arguments.only, folder), arguments.inputs, state):
            if stored:
                stored.write_text(json.dumps(state))
        for name, found in state.items():
            print(f"{name}: {found['inputs']} inputs, {found['read']} read, {found['rejected']} rejected")
            for defect, (count, index) in found["defects"].items():
                print(f"    {count} x {defect} (--only '{name}' --input {index})")
        if not arguments.only and arguments.inputs >= INPUTS:
            write("fuzz", state, page(state), f"{sum(found['inputs'] for found in state.values()):,} inputs", "1 core")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def page(content: dict[str, Any]) -> Page:
    """The result page of the numbers in fuzz.json."""
    inputs = sum(found["inputs"] for found in content.values())
    defects = {name: sum(count for count, _ in found["defects"].values()) for name, found in content.items()}
    rows = [
        [name, f"{found['inputs']:,}", f"{found['read']:,}", f"{found['rejected']:,}", str(defects[name])]
        for name, found in content.items()
    ]
    finding = (
        f"Of {inputs:,} malformed files for {len(content)} readers, {sum(defects.values()) or 'none'} ended in an "
        "exception of a library, took more than 5 seconds or 1 GB, or was silently read as something else."
    )
    note = "Read: the change left a valid file. A changed file of a format with a checksum must not be read."
    heads = ["reader", "inputs", "read", "rejected", "defects"]
    return Page("Malformed files", finding, f"{note}\n\n{table(heads, rows)}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
