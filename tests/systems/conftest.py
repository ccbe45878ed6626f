"""A tracker that needs no server, and two processes that accelerate starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import efface
from command_line import Efface

_LAUNCH = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no")


@pytest.fixture
def wandb_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Weights & Biases writes its runs to the current folder; a call waits until its process has written them."""
    wandb: Any = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield wandb.teardown
    wandb.teardown()  # the next run reads the environment and the current folder again


@pytest.fixture
def accelerate() -> Callable[..., None]:
    """Runs `accelerate launch --multi_gpu --num_processes 2 -m efface ...`, which needs no GPU."""

    def launch(*arguments: object) -> None:
        launcher = (sys.executable, "-m", "accelerate.commands.launch", *_LAUNCH, "--dynamo_backend", "no")
        command = [*launcher, "--main_process_port", "0", "-m", "efface", *map(str, arguments)]
        source = str(Path(efface.__file__).parents[1])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert ended.returncode == 0, ended.stderr

    return launch


@pytest.fixture
def forgets_at_defaults(efface: Efface) -> Callable[..., None]:
    """Checks that `efface erase CONCEPT --method METHOD` erases the concept from most images, and nothing else."""

    def shown(concept: str, prompts: tuple[str, ...], *eraser: str) -> int:
        folder = f"{concept}-{len(eraser)}"
        assert efface("generate", *prompts, *eraser, "-o", folder).code == 0
        return efface("judge", folder, "--question", concept, "--json").json()["questions"][concept]["yes"]

    def check(method: str, concept: str = "guitar") -> None:
        ended = efface("erase", concept, "--method", method, "-o", "erased.safetensors")
        assert ended.code == 0, ended.err
        erased = (f"a {concept}", f"a flat {concept}", f"a photo of a {concept}", f"a {concept} in 3d style")
        others = {
            "cat": ("a cat", "a cat in flat style"),
            "pizza": ("a pizza", "a 3d pizza"),
            "car": ("a car", "a 3d car"),
        }
        assert shown(concept, erased) == len(erased)
        assert shown(concept, erased, "--eraser", "erased.safetensors") <= 1
        eraser = ("--eraser", "erased.safetensors")
        assert sum(shown(other, prompts, *eraser) for other, prompts in others.items()) >= 5

    return check
