"""Readers of files that efface wrote: erasers, states of trainings, attempts, verdicts and the cache."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import efface
from efface import Eraser, Model
from efface.attacks.attempts import AttackResult, Attempt
from efface.errors import BadFile, BadInput
from efface.generation.folder import cache_image, cached_image
from efface.generation.rows import read_rows
from efface.judges.base import Verdict
from efface.judges.training import run as judge_training
from efface.judges.verdicts import read_verdicts, write_verdicts
from efface.methods.training.checkpoints import Checkpoints
from efface.models.tensor_cache import load_tensor, store_tensor
from fuzzing.picture_mutations import picture, png
from fuzzing.reader import Reader, written
from fuzzing.tensor_mutations import resealed_eraser, resealed_state, safetensors_file, verdicts
from fuzzing.text_mutations import damaged, json_lines

_METHODS = ("uce", "rece", "certified", "speed", "cure", "robust", "adavd", "sld", "negative", "oce")
_LARGEST = 1 << 22  # bytes of an eraser
PICTURE = np.random.default_rng(0).integers(0, 255, (48, 40, 3)).astype(np.uint8)
_ATTEMPT = {"prompt": "a cat", "seed": 3, "needless": False, "success": True, "fresh": None, "found": "a dog"}
_ATTEMPT |= {"images": 4, "seconds": 1.5, "error": ""}


@functools.cache
def emoji() -> Model:
    """The embedded model, opened once."""
    return efface.open_model("emoji")


def _erasers(folder: Path) -> list[Path]:
    paths: list[Path] = []
    for method in _METHODS:
        guides = () if method in ("adavd", "sld", "negative", "cure") else ("dog", "bird")
        eraser = efface.erase(emoji(), ["cat", "horse"], to=guides, preserve=["house"] if guides else (), method=method)
        paths.append(folder / method / "eraser.safetensors")
        paths[-1].parent.mkdir()
        getattr(eraser, "eraser", eraser).save(paths[-1])
    paths.append(folder / "composed" / "eraser.safetensors")
    paths[-1].parent.mkdir()
    parts = [Eraser.load(folder / name / "eraser.safetensors") for name in ("speed", "adavd")]
    efface.compose(*parts).save(paths[-1])
    return [path for path in paths if path.stat().st_size < _LARGEST]


def _read_eraser(path: Path) -> object:
    eraser = Eraser.load(path)
    repr(eraser)
    try:
        if len(eraser.concepts) > 1:
            eraser.only(eraser.concepts[0])
        with eraser.attach(emoji()):
            pass
    except BadInput:
        pass
    return eraser.hash


def _checkpoint(folder: Path) -> list[Path]:
    checkpoints = Checkpoints(folder / "training", 0, {"a": 1})
    header = {"step": 3, "seconds": 1.0, "finished": False, "losses": {"loss": 0.5}, "scaler": None}
    checkpoints.write(header, {"weights.x": torch.zeros(3, 4), "optimizer.0.step": torch.tensor(3.0)})
    for step in range(1, 6):
        checkpoints.log({"step": step, "loss": 0.5, "seconds": 1.0})
    return [checkpoints.path]


def _read_checkpoint(path: Path) -> object:
    stored = Checkpoints(path.parent, 0, {"a": 1}).read()
    if stored is None:
        raise BadFile("There is no checkpoint.")
    return str(stored[0]), {name: tensor.tolist() for name, tensor in stored[1].items()}


def _training_log(folder: Path) -> list[Path]:
    return [_checkpoint(folder)[0].with_name("component-0.jsonl")]


def _read_training_log(path: Path) -> None:
    Checkpoints(path.parent, 0, {"a": 1}).forget_after(3)


def _network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    return network, torch.optim.AdamW(network.parameters())


def _step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def _judge_state(folder: Path) -> list[Path]:
    network, optimizer = _network()
    _step(network, optimizer)
    path = folder / "judge" / "training.safetensors"
    path.parent.mkdir()
    judge_training._save_state(path, network, optimizer, 2, "work")  # pyright: ignore[reportPrivateUsage]
    return [path]


def _read_judge_state(path: Path) -> object:
    network, optimizer = _network()
    epoch = judge_training._load_state(path, network, optimizer, "work")  # pyright: ignore[reportPrivateUsage]
    if epoch == 0:
        raise BadFile("There is no state.")
    _step(network, optimizer)
    return epoch, [parameter.tolist() for parameter in network.parameters()]


def _read_attempts(path: Path) -> object:
    return str(AttackResult(tuple(map(Attempt.from_dict, read_rows(path)))).as_dict())


def _verdicts(folder: Path) -> list[Path]:
    rows = [
        Verdict(f"{index}.png", "cat", "yes" if index % 2 else "no", 0.1 + 0.8 * (index % 2), "emoji", "2", 0.5)
        for index in range(5)
    ]
    rows.append(Verdict("9.png", "cat", "error", float("nan"), "emoji", "2", 0.5, "broken"))
    path = folder / "verdicts" / "cat.parquet"
    path.parent.mkdir()
    write_verdicts(path, rows)
    return [path]


def _read_verdicts(path: Path) -> object:
    return str(read_verdicts(path))


def _cached_tensor(folder: Path) -> list[Path]:
    store_tensor(folder / "cache" / "gram.safetensors", "S", torch.eye(8))
    return [folder / "cache" / "gram.safetensors"]


def _read_cached_tensor(path: Path) -> object:
    tensor = load_tensor(path, "S", (8, 8))
    if tensor is None:
        raise BadFile("There is no such tensor in the cache.")
    return tensor.tolist()


_KEY = "ab" * 16


def _cached_picture(folder: Path) -> list[Path]:
    os.environ["EFFACE_CACHE"] = str(folder / "cache")
    cache_image(_KEY, PICTURE)
    return [next(folder.rglob("*.png"))]


def _read_cached_picture(path: Path) -> object:
    os.environ["EFFACE_CACHE"] = str(next(above for above in path.parents if above.name == "cache"))
    pixels: Any = cached_image(_KEY)
    if pixels is None:
        raise BadFile("There is no such picture in the cache.")
    return pixels.tobytes()


_TENSORS = (damaged, safetensors_file)
_PICTURES = (damaged, png, picture)
_ATTEMPTS = written("attempts.jsonl", (json.dumps(_ATTEMPT) + "\n") * 3)
READERS = (
    Reader("erasers", _erasers, (*_TENSORS, resealed_eraser, resealed_eraser), _read_eraser, _TENSORS, 4),
    Reader("checkpoints of trainings", _checkpoint, (*_TENSORS, resealed_state), _read_checkpoint, _TENSORS),
    Reader("logs of trainings", _training_log, (damaged, json_lines), _read_training_log),
    Reader("states of a judge's training", _judge_state, (*_TENSORS, resealed_state), _read_judge_state, _TENSORS),
    Reader("attempts of attacks", _ATTEMPTS, (damaged, json_lines, json_lines), _read_attempts),
    Reader("tables of verdicts", _verdicts, (verdicts,), _read_verdicts),
    Reader("cached tensors", _cached_tensor, _TENSORS, _read_cached_tensor, _TENSORS),
    Reader("cached pictures", _cached_picture, _PICTURES, _read_cached_picture, _PICTURES),
)
