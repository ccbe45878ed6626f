"""A judge of one's own: a classifier learned from folders of images, as the judges of SepCE and UnlearnCanvas were.

SepCE (arXiv 2402.05947) trains the last layer of a ResNet-18 on 1000 images an artist of the unedited model, 70% of
them; UnlearnCanvas (arXiv 2402.11846) fine-tunes a ViT-L on its own pictures. Here a small ResNet or ViT of
transformers starts at random, or any of its classifiers is fine-tuned (`start`), whole or its last layer (`head_only`).
AdamW (arXiv 1711.05101) on the cross-entropy; the learning rate warms up over a tenth of the steps and falls as a
cosine to zero.

The result is a folder that `style:FOLDER` and `imagenet:FOLDER` open. Its `judge.json` holds accuracy and confusion on
the pictures held out. The seed decides split, weights and order; an interrupted run goes on after its last epoch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from efface.errors import BadFile
from efface.files import atomic
from efface.generation.folder import read_picture
from efface.judges.imagenet import Classifier
from efface.judges.training.network import TrainSettings, head_of, network
from efface.judges.training.pictures import Split, labelled, split
from efface.judges.training.state import load_state, save_state
from efface.models.pretrained import quiet
from efface.progress import Progress
from efface.provenance import versions

RESULT, STATE = "judge.json", "training.safetensors"
_WARM_UP = 0.1


def train_judge(
    folder: Path,
    out: Path,
    labels: str = "object",
    settings: TrainSettings | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train on the pictures of a folder, and write the judge into another, which must exist.

    Args:
        folder: The pictures; `labelled` says how they lie.
        out: Where the judge goes.
        labels: `style`, `object`, or a column of the folder's metadata.
        settings: How to train.
        seed: Of split, weights and order.
        device: The torch device to train on.
        progress: Told after each epoch.

    Returns:
        What `judge.json` holds.

    Raises:
        BadInput: The pictures, their labels or the network to start from will not do.
    """
    settings = settings or TrainSettings()
    data = split(labelled(folder, labels), settings.held_out, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = network(settings, data.classes, device)
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
    with quiet():
        classifier.model.save_pretrained(out)
        classifier.processor.save_pretrained(out)
    with atomic(out / RESULT) as temporary:
        temporary.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / STATE).unlink(missing_ok=True)
    return result


def _fit(
    classifier: Classifier, data: Split, settings: TrainSettings, seed: int, state: Path, progress: Progress | None
) -> None:
    model = classifier.model
    learning = model
    if settings.head_only:  # the body keeps its running statistics, too
        learning = head_of(model.eval().requires_grad_(False)).requires_grad_(True)
    optimizer = torch.optim.AdamW(learning.parameters(), settings.lr, weight_decay=settings.weight_decay)
    per_epoch = math.ceil(len(data.learned) / settings.batch_size)
    work = hashlib.sha256(f"{settings.model_dump_json()} {data.hash} {seed}".encode()).hexdigest()
    for epoch in range(load_state(state, model, optimizer, work), settings.epochs):
        learning.train()
        torch.manual_seed(seed + epoch)  # what dropout draws is the same in a run that was interrupted
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
        save_state(state, model, optimizer, epoch + 1, work)
        if progress:
            progress("epochs", epoch + 1, settings.epochs)


def _schedule(share: float) -> float:
    """The share of the learning rate at a share of the steps: a linear warm-up, then half a cosine."""
    if share < _WARM_UP:
        return share / _WARM_UP
    return (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))) / 2


def _batch(classifier: Classifier, pictures: Sequence[tuple[Path, int]]) -> tuple[Tensor, Tensor]:
    """Pixels (n, 3, H, W) as the classifier reads them, and classes (n,)."""
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(_read, [path for path, _ in pictures]))
    pixels: Tensor = classifier.processor(images, return_tensors="pt")["pixel_values"]
    return pixels.to(classifier.device), torch.tensor([index for _, index in pictures], device=classifier.device)


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        return read_picture(path)
    except OSError as error:
        raise BadFile(f"Cannot learn from {path}: {error}; mend it or take it away.") from error


@torch.no_grad()
def _confusion(classifier: Classifier, data: Split, batch_size: int) -> NDArray[np.int64]:
    """How often each class (row) was taken for each (column) among the pictures held out."""
    counts = np.zeros((len(data.classes), len(data.classes)), np.int64)
    for start in range(0, len(data.held_out), batch_size):
        x, y = _batch(classifier, data.held_out[start : start + batch_size])
        found = classifier.model(pixel_values=x).logits.argmax(1)
        np.add.at(counts, (y.cpu().numpy(), found.cpu().numpy()), 1)
    return counts
