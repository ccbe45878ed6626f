"""An evaluation that is killed at any moment and run again equals one that nothing interrupted."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

import efface
from support import Processes

KILLS, AT_MOST = 12, 10
BATCH = 8  # several batches a model, so that most kills leave some whole, one in part and the rest undone


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again(processes: Processes, tmp_path: Path) -> None:
    eraser = tmp_path / "cat.safetensors"
    efface.erase(efface.open_model("emoji"), "cat", "dog").save(eraser)
    command = ("evaluate", eraser, "-n", 3, "--steps", 2, "--batch-size", BATCH, "--device", "cpu", "-o")

    def start(out: Path) -> int:
        return processes.command(*command, out, EFFACE_CACHE=tmp_path / "cache")

    def whole(out: Path) -> bytes:
        """The report of a run that is not interrupted."""
        assert processes.wait(start(out)) == 0
        return (out / "report.json").read_bytes()

    started = time.monotonic()
    reference = whole(tmp_path / "reference")
    takes = time.monotonic() - started
    draw = random.Random(0)
    kills = trials = 0
    while kills < KILLS:
        out = tmp_path / f"trial-{trials}"
        shutil.rmtree(tmp_path / "cache")
        for _ in range(AT_MOST):
            process = start(out)
            time.sleep(takes * draw.random() ** 2)  # more often early, so that fewer runs are needed
            os.kill(process, signal.SIGKILL)  # one that has ended is still there until it is waited for
            ended = processes.wait(process)
            assert ended in (0, -signal.SIGKILL)
            kills += ended == -signal.SIGKILL
            if (out / "report.html").exists():
                break
        if (out / "report.html").exists():
            assert (out / "report.json").read_bytes() == reference
        else:
            assert whole(out) == reference
        assert not [path for path in out.rglob(".*") if path.is_file()], "nothing half-written is left"
        trials += 1
        assert trials < 2 * KILLS, "the runs end before they are killed"
