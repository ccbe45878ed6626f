"""LPIPS: the perceptual distance of two pictures, by the activations of AlexNet.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", arXiv 1801.03924, version 0.1;
https://github.com/richzhang/PerceptualSimilarity. With F_l the activations behind AlexNet's l-th ReLU, scaled to unit
length over channels at each position (h, w), and learned weights a_l,

    LPIPS(x, y) = sum_l mean_hw sum_c a_lc (F_l(x) - F_l(y))_chw^2

Papers on erasing compare the images of one prompt and seed with and without the eraser, resized to a shorter side of 64
(ESD, UCE): high on erased artists, low on the others.

The user provides the weights: torchvision's AlexNet (alexnet-owt-7be5be79.pth, names `features.0.weight`, ...) and the
heads of lpips 0.1 (weights/v0.1/alex.pth of the package `lpips`, names `lin0.model.1.weight`, ...), in one file or two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from efface.errors import BadInput
from efface.files import sha256_of_tensors
from efface.generation.folder import Pixels
from efface.metrics.base import Measured, MetricEntry
from efface.metrics.bootstrap import Array, by_prompt, mean_with_interval
from efface.metrics.features import batches, load_weights, unit_range

WIDTHS = (64, 192, 384, 256, 256)
# The indices of the compared ReLUs in torchvision's list of layers.
_TAPS = (1, 4, 7, 9, 11)
_SHIFT, _SCALE = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])


class Head(nn.Module):
    """The weights a_lc of one layer: (n, width, H, W) to (n,).

    The dropout layer only makes the names of the weights those of the published file.

    Args:
        width: Channels of the layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).mean((1, 2, 3))


class AlexLpips(nn.Module):
    """Two batches of pictures in [-1, 1], (n, 3, H, W) each, to distances (n,)."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d, e = WIDTHS
        self.features = nn.Sequential(
            *(nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(a, b, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(b, c, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(c, d, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(d, e, 3, 1, 1), nn.ReLU()),
        )
        self.lin0, self.lin1, self.lin2, self.lin3, self.lin4 = (Head(width) for width in WIDTHS)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Activations after each compared ReLU, of unit length: (n, 3, H, W) to five tensors (n, C, h, w)."""
        x = (x - _SHIFT.to(x).view(3, 1, 1)) / _SCALE.to(x).view(3, 1, 1)
        taken: list[Tensor] = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in _TAPS:
                taken.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return taken

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        heads = (self.lin0, self.lin1, self.lin2, self.lin3, self.lin4)
        layers = zip(heads, self.activations(x), self.activations(y), strict=True)
        return torch.stack([head((f - g).square()) for head, f, g in layers]).sum(0)


class Lpips:
    """LPIPS with weights from files.

    Args:
        files: AlexNet and the heads, in one file or several.
        side: The shorter side to which images are resized first (PIL, bilinear). None means no resizing.
        device: The torch device to compute on.

    Raises:
        BadFile: A weight is missing or has another shape.
    """

    def __init__(self, *files: str | Path, side: int | None = None, device: str | torch.device = "cpu") -> None:
        self.net = AlexLpips().eval().requires_grad_(False)
        load_weights(self.net, *files)
        resized = "" if side is None else f" {side}px"
        self.version = f"lpips-alex-0.1 {sha256_of_tensors(self.net.state_dict())[:12]}{resized}"
        self._side, self._device = side, device
        self.net.to(device)

    @torch.no_grad()
    def distances(self, first: Iterable[Pixels], second: Iterable[Pixels]) -> Array:
        """The distance of each pair of images.

        Args:
            first: The n first images, each of shape (H, W, 3).
            second: The n second images.

        Returns:
            Distances of shape (n,).

        Raises:
            BadInput: There are more images of one kind than of the other.
        """
        distances: list[float] = []
        for one, other in zip_longest(batches(first), batches(second), fillvalue=()):
            if len(one) != len(other):
                raise BadInput("LPIPS compares pairs: pass as many first as second images.")
            distances += [self._distance(x, y) for x, y in zip(one, other, strict=True)]
        return np.array(distances)

    def _distance(self, first: Pixels, second: Pixels) -> float:
        x, y = self._prepared(first), self._prepared(second)
        if x.shape != y.shape:
            raise BadInput(f"LPIPS compares images of one size, not {first.shape[:2]} with {second.shape[:2]}.")
        return float(self.net(x, y))

    def _prepared(self, image: Pixels) -> Tensor:
        """The image in [-1, 1], of shape (1, 3, h, w)."""
        if self._side is not None:
            image = np.asarray(shorter_side(Image.fromarray(image), self._side))
        return (unit_range(image) * 2 - 1)[None].to(self._device)


def shorter_side(picture: Image.Image, side: int) -> Image.Image:
    """Resize a picture to a shorter side, as torchvision's Resize does: the longer side is rounded down."""
    width, height = picture.size
    shorter = min(width, height)
    return picture.resize((side * width // shorter, side * height // shorter), Image.Resampling.BILINEAR)


def lpips(
    net: Lpips, first: Iterable[Pixels], second: Iterable[Pixels], prompts: Sequence[str] | None = None
) -> Measured:
    """The mean distance of pairs of images, with its interval.

    Args:
        net: The network with its weights.
        first: The first images, each of shape (H, W, 3).
        second: The second images, with the same prompts and seeds in the same order.
        prompts: The prompt of each pair, to resample prompts. Without prompts, pairs count as independent.
    """
    return mean_with_interval(by_prompt(net.distances(first, second).tolist(), prompts), net.version)


ENTRY = MetricEntry(
    name="lpips",
    summary="perceptual distance of two images of one prompt and seed, by AlexNet; weights from you",
    paper="https://arxiv.org/abs/1801.03924",
    over="pairs of images",
    better="lower",
    measure=lpips,
)
