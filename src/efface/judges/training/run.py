"""Training a judge: a classifier of the user's labelled images, as the judges of SepCE and UnlearnCanvas are.

SepCE (arXiv 2402.05947) trains the last layer of a ResNet-18 on 70% of 1000 images per artist of the unedited model;
UnlearnCanvas (arXiv 2402.11846) fine-tunes a ViT-L on its own pictures. Here a small ResNet or ViT of transformers is
trained from random weights, or any classifier of transformers is fine-tuned (`start`), all of it or only the last layer
(`head_only`). AdamW (arXiv 1711.05101) minimises the cross-entropy; the learning rate warms up linearly over a tenth of
the steps and then follows a cosine to zero.

The result is a folder that `style:FOLDER` and `imagenet:FOLDER` open. Its `judge.json` contains accuracy and confusion
on the held-out pictures, or on those in `eval` if the folder has `train` and `eval`. The seed decides split, weights
and order; an interrupted run resumes after its last epoch.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from efface.errors import BadFile
from efface.files import atomic
from efface.image_files import read_picture
from efface.json_writing import json_text
from efface.judges.shared.classifier import TransformersClassifier
from efface.judges.training.network import TrainSettings, head_of, new_classifier
from efface.judges.training.pictures import Split, read_split
from efface.models.pretrained import no_loading_bar
from efface.parsing import Schema
from efface.progress import Progress
from efface.provenance import versions
from efface.sealed import read_sealed, write_sealed

RESULT, STATE = "judge.json", "training.safetensors"
_LOGGER = logging.getLogger("efface")
_WARM_UP = 0.1
_MODEL, _MOMENTS = "model.", "optimizer."


def train_classifier(
    folder: Path,
    out: Path,
    labels: str = "object",
    settings: TrainSettings | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """Train a judge on the pictures of a folder.

    Args:
        folder: The pictures, arranged as `read_split` documents.
        out: The folder for the judge, which must exist.
        labels: `style`, `object`, or a column of the folder's metadata.
        settings: The settings of the training.
        seed: The seed of split, weights and order.
        device: The torch device to train on.
        progress: The progress callback, called after each epoch.
        names: Names of the classes whose labels are 0, 1, 2 and so on; empty if the labels are the names.

    Returns:
        The content of `judge.json`.

    Raises:
        BadInput: The pictures, their labels or the network to start from are not usable.
    """
    settings = settings or TrainSettings()
    data = read_split(folder, labels, settings, seed, names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = new_classifier(settings, data.classes, device)
        _fit(classifier, data, settings, seed, out / STATE, progress)
    classifier.model.eval()
    confusion = _confusion(classifier, data, settings.batch_size)
    result: dict[str, Any] = {
        "labels": labels,
        "classes": list(data.classes),
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "recall": (np.diag(confusion) / confusion.sum(axis=1)).tolist(),
        "learned_from": len(data.learned),
        "held_out": len(data.held_out),
        "confusion": confusion.tolist(),
        "pictures": data.hash,
        "settings": settings.model_dump(),
        "seed": seed,
        "versions": versions(),
    }
    # The libraries write files of random names, which a killed process would leave in the folder of the judge.
    with (
        TemporaryDirectory(prefix=".parts-", suffix=f".{os.getpid()}.tmp", dir=out) as folder_of_parts,
        no_loading_bar(),
    ):
        classifier.model.save_pretrained(folder_of_parts)
        classifier.processor.save_pretrained(folder_of_parts)
        for part in Path(folder_of_parts).iterdir():
            part.replace(out / part.name)
    with atomic(out / RESULT) as temporary:
        temporary.write_text(json_text(result, indent=1) + "\n", encoding="utf-8")
    (out / STATE).unlink(missing_ok=True)
    return result


def _fit(
    classifier: TransformersClassifier,
    data: Split,
    settings: TrainSettings,
    seed: int,
    state: Path,
    progress: Progress | None,
) -> None:
    model = classifier.model
    learning = model
    if settings.head_only:  # eval() also freezes the running statistics of the body
        learning = head_of(model.eval().requires_grad_(False)).requires_grad_(True)
    optimizer = torch.optim.AdamW(learning.parameters(), settings.lr, weight_decay=settings.weight_decay)
    per_epoch = math.ceil(len(data.learned) / settings.batch_size)
    work = hashlib.sha256(f"{settings.model_dump_json()} {data.hash} {seed}".encode()).hexdigest()
    for epoch in range(_load_state(state, model, optimizer, work), settings.epochs):
        learning.train()
        torch.manual_seed(seed + epoch)  # so that dropout is the same in a resumed run
        rng = np.random.default_rng((seed, epoch))
        for step, chosen in enumerate(np.array_split(rng.permutation(len(data.learned)), per_epoch)):
            share = (epoch * per_epoch + step + 1) / (settings.epochs * per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * _schedule(share)
            x, y = _batch(classifier, [data.learned[i] for i in chosen.tolist()])
            if settings.flip:
                mirrored = torch.from_numpy(rng.random(len(x)) < 0.5).to(x.device)
                x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
            loss = F.cross_entropy(model(pixel_values=x).logits.float(), y)
            if not loss.isfinite():
                raise RuntimeError(f"Training diverged in epoch {epoch + 1}; try a smaller learning rate: -s lr=1e-4.")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _save_state(state, model, optimizer, epoch + 1, work)
        if progress:
            progress("epochs", epoch + 1, settings.epochs)


def _schedule(share: float) -> float:
    """The factor of the learning rate after a share of the steps: a linear warm-up, then half a cosine."""
    if share < _WARM_UP:
        return share / _WARM_UP
    return (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))) / 2


def _batch(classifier: TransformersClassifier, pictures: Sequence[tuple[Path, int]]) -> tuple[Tensor, Tensor]:
    """Preprocessed pixels of shape (n, 3, H, W), and classes of shape (n,)."""
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(_read, [path for path, _ in pictures]))
    pixels: Tensor = classifier.processor(images, return_tensors="pt")["pixel_values"]
    return pixels.to(classifier.device), torch.tensor([index for _, index in pictures], device=classifier.device)


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        return read_picture(path)
    except OSError as error:
        raise BadFile(f"Cannot learn from {path}: {error}; repair or remove it.") from error


@torch.no_grad()
def _confusion(classifier: TransformersClassifier, data: Split, batch_size: int) -> NDArray[np.int64]:
    """Counts of the held-out pictures by true class (row) and recognised class (column)."""
    counts = np.zeros((len(data.classes), len(data.classes)), np.int64)
    for start in range(0, len(data.held_out), batch_size):
        x, y = _batch(classifier, data.held_out[start : start + batch_size])
        recognised = classifier.model(pixel_values=x).logits.argmax(1)
        np.add.at(counts, (y.cpu().numpy(), recognised.cpu().numpy()), 1)
    return counts


def _save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, work: str) -> None:
    """Write weights, AdamW's moments and the number of finished epochs to one file.

    `work` is the hash of what is trained: only the same work resumes from the file.
    """
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{_MOMENTS}{index}.{name}": tensor for name, tensor in moments.items()}
    write_sealed(path, {"epoch": epoch, "work": work}, tensors)


class StateHeader(Schema):
    """The header of the state of a training."""

    epoch: int = Field(ge=0)
    work: str


def _load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, work: str) -> int:
    """Load what `_save_state` wrote for the same work.

    Returns:
        The number of finished epochs: 0 without a file, and with a damaged one, which the log reports.
    """
    if not path.is_file():
        return 0
    try:
        content, tensors = read_sealed(path, "the state of a training")
        header = StateHeader.checked(content, str(path))
    except BadFile as error:
        _LOGGER.info("%s The training starts again.", error)
        return 0
    if header.work != work:
        return 0
    if not _fits(tensors, model, optimizer):
        _LOGGER.info("The tensors in %s do not fit this training. The training starts again.", path)
        return 0
    model.load_state_dict({name.removeprefix(_MODEL): t for name, t in tensors.items() if name.startswith(_MODEL)})
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_MOMENTS):
            index, _, moment = name.removeprefix(_MOMENTS).partition(".")
            state.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return header.epoch


def _fits(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether tensors are weights of a network and moments of its AdamW, of the same shapes and types, and finite.

    A parameter without a gradient has no moments; every other one has all three.
    """
    expected = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        moments = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
        named = {f"{_MOMENTS}{index}.{name}": tensor for name, tensor in moments.items()}
        if named.keys() & tensors.keys():
            expected |= named
    return tensors.keys() == expected.keys() and all(
        tensor.shape == expected[name].shape
        and tensor.dtype == expected[name].dtype
        and bool(tensor.isfinite().all())
        and (not name.endswith(("exp_avg_sq", ".step")) or bool((tensor >= 0).all()))
        for name, tensor in tensors.items()
    )
