"""Functions and stubs that tests of several packages share. Fixtures are in the files conftest.py."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from efface import Eraser, TextEdit, WeightEdit
from efface.generation import Job

#: The metadata of an image besides its file and its key.
IMAGE_ROW: Mapping[str, Any] = {
    "prompt": "p", "concept": "c", "seed": 1, "guidance": 7.5, "steps": 4, "sampler": "ddim",
    "model": "m", "model_hash": "h",
}  # fmt: skip


def the_edit(eraser: Eraser) -> TextEdit:
    """The one text edit of an eraser that has no other edit."""
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    return edit


def low_rank_changes(eraser: Eraser) -> dict[str, Tensor]:
    """The change of each of the denoiser's parameters, (rows, columns), by its name."""
    changes: dict[str, Tensor] = {}
    for edit in eraser.edits:
        assert isinstance(edit, WeightEdit)
        assert edit.up is not None
        assert edit.down is not None
        changes[edit.parameter.removeprefix("denoiser.")] = edit.up @ edit.down
    return changes


def relative(value: Tensor, expected: Tensor) -> float:
    """The Frobenius norm of the error, relative to the expected tensor."""
    return float((value - expected).norm() / expected.norm())


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normally distributed numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random32(*shape: int, seed: int = 0) -> Tensor:
    """Like `random`, in float32."""
    return random(*shape, seed=seed, dtype=torch.float32)


def parameters(module: Any) -> dict[str, Tensor]:
    """A copy of a module's parameters and buffers."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of named tensors are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Trial:
    """An attack's trial: records the jobs, and scores them in their order by `scores`, then by 0.

    Args:
        scores: One score a job, or a function of the job.
    """

    def __init__(self, *scores: float, by: Callable[[Job], float] | None = None) -> None:
        self.jobs: list[Job] = []
        self._scores = iter(scores)
        self._by = by or (lambda job: next(self._scores, 0.0))

    def __call__(self, jobs: Sequence[Job]) -> list[float]:
        self.jobs += jobs
        return [self._by(job) for job in jobs]


class StubJudge:
    """A judge that knows every concept and is sure from 0.5 on; a test adds `scores`."""

    name, version = "stub", "1"

    def knows(self, concept: str) -> bool:
        return True

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()

    def same(self, one: str, other: str) -> bool:
        return one == other

    def threshold(self, concept: str) -> float:
        return 0.5


# Forks a process for each request, with the libraries imported and nothing computed.
_SERVER = """
import json, os, signal, sys, traceback
import accelerate
import diffusers.models.autoencoders.autoencoder_kl, diffusers.models.unets.unet_2d_condition
import diffusers.schedulers.scheduling_ddim, diffusers.schedulers.scheduling_dpmsolver_multistep
import efface.cli.run, efface.eraser.certificate, efface.generation.run, efface.judges.emoji, efface.methods.trained.esd
import efface.protocols.err, efface.report
import pyarrow.parquet, rich.progress
import transformers.models.clip.modeling_clip, transformers.models.clip.tokenization_clip

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(os.waitpid(request["wait"], 0)[1], flush=True)
        continue
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.environ.update(request["environment"])
        code = 1
        try:
            code = efface.cli.run.run(request["arguments"]) if "arguments" in request else exec(request["script"], {})
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code or 0)
    print(child, flush=True)
"""


class Processes:
    """Runs command lines and scripts in processes that start at once: forks of one that has imported the libraries."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1
        )
        assert self._answer() == "ready"

    def command(self, *arguments: object, **environment: object) -> int:
        """Start `efface` with these arguments and return the process's id."""
        return self._start({"arguments": [str(argument) for argument in arguments]}, environment)

    def script(self, script: str, **environment: object) -> int:
        """Start a Python script and return the process's id."""
        return self._start({"script": script}, environment)

    def wait(self, process: int) -> int:
        """Wait for a process and return its exit code, or the negative number of the signal that killed it."""
        return os.waitstatus_to_exitcode(int(self._ask({"wait": process})))

    def close(self) -> None:
        """End the process that forks; no other may run any more."""
        self._server.communicate()

    def _start(self, request: dict[str, Any], environment: dict[str, object]) -> int:
        return int(self._ask({**request, "environment": {key: str(value) for key, value in environment.items()}}))

    def _ask(self, request: dict[str, Any]) -> str:
        assert self._server.stdin
        self._server.stdin.write(json.dumps(request) + "\n")
        return self._answer()

    def _answer(self) -> str:
        assert self._server.stdout
        return self._server.stdout.readline().strip()


def two_shades(size: tuple[int, int], colour: tuple[int, int, int]) -> Image.Image:
    """A picture of one colour, but for its last column: pictures of one colour alone count as broken."""
    other = list(colour)
    channel = other.index(0) if 0 in other else 0
    other[channel] += 40 if other[channel] < 200 else -40
    picture = Image.new("RGB", size, colour)
    picture.paste((other[0], other[1], other[2]), (size[0] - 1, 0, *size))
    return picture
