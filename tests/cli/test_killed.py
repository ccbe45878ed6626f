"""An evaluation that is killed at any moment and run again equals one that nothing interrupted."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import efface

KILLS, AT_MOST = 20, 10
BATCH = 24  # several batches a model, so that most kills leave some whole, one in part and the rest undone

# Forks a process for each command line that it reads, with the libraries imported and nothing computed.
SERVER = """
import json, os, sys
import efface.eraser.certificate, efface.generation.run, efface.judges.emoji, efface.protocols.err, efface.report
import diffusers.models.autoencoders.autoencoder_kl, diffusers.models.unets.unet_2d_condition
import diffusers.schedulers.scheduling_dpmsolver_multistep, pyarrow.parquet, rich.progress
import transformers.models.clip.modeling_clip, transformers.models.clip.tokenization_clip
from efface.cli.run import run
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(run(json.loads(line)))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Server:
    """Runs command lines in processes of their own."""

    def __init__(self, cache: Path) -> None:
        environment = {**os.environ, "EFFACE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1
        )
        assert self._answer() == "ready"

    def start(self, *arguments: object) -> int:
        """The process's id."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        return int(self._answer())

    def end(self) -> int:
        """How the process that was started last ended."""
        return int(self._answer())

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "cache")
    yield server
    server.close()


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again(server: Server, tmp_path: Path) -> None:
    eraser = tmp_path / "cat.safetensors"
    efface.erase(efface.open_model("emoji"), "cat", "dog").save(eraser)
    command = ("evaluate", eraser, "-n", 8, "--steps", 2, "--batch-size", BATCH, "--device", "cpu", "-o")

    def whole(out: Path) -> bytes:
        """The report of a run that nobody interrupts."""
        server.start(*command, out)
        assert server.end() == 0
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
            process = server.start(*command, out)
            time.sleep(takes * draw.random() ** 2)  # more often early, so that fewer runs are needed
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                assert server.end() == 0
                break
            kills += server.end() == signal.SIGKILL
            if (out / "report.html").exists():
                break
        if (out / "report.html").exists():
            assert (out / "report.json").read_bytes() == reference
        else:
            assert whole(out) == reference
        assert not [path for path in out.rglob(".*") if path.is_file()], "nothing half-written is left"
        trials += 1
        assert trials < 2 * KILLS, "the runs end before they are killed"
